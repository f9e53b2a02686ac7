"""The files of a new service: everstill.toml, where asked a student, a README and a .gitignore. Text in, text out.

Decides what a newcomer has to read: only settings that differ from their defaults, each with its reason. Knows no disk and no
model; called by `everstill init`.
"""

import dataclasses
import importlib.resources
import json
import string
from collections.abc import Iterable, Sequence
from typing import Any

from everstill.project.fit import Fit
from registry.sections import TensorSpec

AUTO = "auto"
#: What makes a student where the configuration names a function.
_FUNCTION = '''

def {name}(hidden: int = 128) -> Student:
    """What learner.student names; arguments come from learner.arguments."""
    return Student(hidden)
'''
#: Width at which lists are broken.
WIDTH = 120


@dataclasses.dataclass(frozen=True)
class Plan:
    """What shall be written.

    Args:
        teacher: `host:port`, an ONNX file as everstill.toml names it, or `magika`.
        served: whether the teacher is a server that runs already.
        student: `auto`, a built-in one's name or `module:function`.
        first_version: an ONNX file as everstill.toml names it, or empty.
    """

    name: str
    teacher: str
    served: bool
    teacher_model: str
    fit: Fit
    output: str = "logits"
    student: str = AUTO
    first_version: str = ""


def render(plan: Plan, *, with_student: bool) -> dict[str, str]:
    """Return the files by name.

    Args:
        with_student: whether the student's module is written too.
    """
    files = {"everstill.toml": _toml(plan), "README.md": _readme(plan), ".gitignore": _template("gitignore")}
    if with_student:
        files[f"{plan.student.partition(':')[0]}.py"] = _student(plan)
    return files


def _toml(plan: Plan) -> str:
    fit = plan.fit
    lines = [
        f"# {plan.name}: a student that serves and learns from its teacher. Here stands what differs from the defaults or is changed most;",
        "# `everstill config` prints all that is in force, `everstill config --schema` explains every key.",
        "",
        "[model]",
        f"name = {_value(plan.name)}  # what callers name in a request",
        *_list(
            "inputs",
            [_spec(one) for one in fit.inputs],
            "as the teacher takes them; -1 is any size, the first is the batch",
        ),
        f"output = {_value(plan.output)}  # the student's raw logits, FP32 [batch, classes]",
        f"num_classes = {fit.num_classes}",
        *(_list("labels", [_value(one) for one in fit.labels], "of the classes, in their order") if fit.labels else []),
        "",
        "[gateway]",
        "pass_through = true  # until there is a first version, the teacher answers",
        "",
        "[teacher]",
        *([f"address = {_value(plan.teacher)}", f"model = {_value(plan.teacher_model)}"] if plan.served else []),
        f"output = {_value(fit.output)}",
        f"kind = {_value(fit.kind)}  # told by: {fit.why_kind}",
        "budget_ratio = 0.25  # hard cap: rows sampled to the teacher, as a share of those served; what it answers before the first version comes on top",
    ]
    if not plan.served:
        lines += [
            "",
            "[teacher_server]",
            f"onnx = {_value(plan.teacher)}  # `everstill teacher` and `everstill up` serve it",
        ]
    lines += [
        "",
        "[learner]",
        f"student = {_value(plan.student)}  # auto, byte_window, ngrams, tabular, image, or module:function",
        "",
        "[release]",
    ]
    if plan.first_version:
        lines.append(f"first_version = {_value(plan.first_version)}  # released at the start, ungated")
    lines += [
        "bootstrap_pairs = 256  # teacher answers before the student's own first version",
        "cut_every_pairs = 64   # new answers between two candidates",
        "",
        "# What is learned from travels through a file in everstill-data/. Through Kafka instead (`everstill up` makes the topics):",
        "# [stream.kafka]",
        '# bootstrap = "127.0.0.1:9092"',
        "",
        "# Whoever can write the registry can publish a version. To load only what the loop has signed: `everstill signing-keys create`, which says",
        "# what to write where:",
        "# [signing]",
        '# key_file = "signing-key.pem"',
        '# public_keys = ["ed25519:..."]',
        "# required = true",
        "",
        "[log]",
        'format = "json"  # or "console", for people',
        "",
    ]
    return "\n".join(lines)


def _readme(plan: Plan) -> str:
    name, call = plan.name, example_call(plan.name, plan.fit.inputs, plan.output, "127.0.0.1:8001")
    where = (
        f"`{plan.teacher_model}` on {plan.teacher}" if plan.served else f"`{plan.teacher}`, served by `everstill up`"
    )
    return string.Template(_template("README.md")).substitute(
        name=name, teacher=where, call=call, output=plan.fit.output
    )


def example_call(model: str, inputs: Sequence[TensorSpec], output: str, address: str) -> str:
    """Return a client's call that can be pasted."""
    given = ", ".join(f"{json.dumps(one.name)}: {_example(one)}" for one in inputs)
    needs_numpy = any(one.datatype != "BYTES" for one in inputs)
    lines = [
        *(["import numpy as np"] if needs_numpy else []),
        "from serving.rpc.client import InferenceClient",
        "",
        f"with InferenceClient({json.dumps(address)}) as client:",
        f"    answer = client.infer({json.dumps(model)}, {{{given}}})",
        f"    print(answer.version, answer.outputs[{json.dumps(output)}].argmax(axis=1))",
    ]
    return "\n".join(lines)


def _example(spec: TensorSpec) -> str:
    shape = [1, *(16 if size == -1 else size for size in spec.shape[1:])]
    if spec.datatype == "BYTES":
        return '["a text"]' if len(shape) == 1 else f'np.full({tuple(shape)}, "a text")'
    numpy_name = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BOOL": "bool"}.get(
        spec.datatype, spec.datatype.lower()
    )
    return (
        f'np.zeros({tuple(shape)}, "{numpy_name}")'.replace(",)", ")")
        if len(shape) > 1
        else f'np.zeros({shape[0]}, "{numpy_name}")'
    )


def _student(plan: Plan) -> str:
    """Return a torch module that fits the inputs: each is made a row of numbers, then two layers answer."""
    name = plan.student.partition(":")[2]
    is_class = name[0].isupper()
    encoders, forwards, sizes = [], [], []
    for number, spec in enumerate(plan.fit.inputs):
        variable = f"x{number}" if len(plan.fit.inputs) > 1 else "x"
        free = any(size == -1 for size in spec.shape[1:])
        if spec.datatype in ("FP16", "FP32", "FP64") and not free:
            size = 1
            for one in spec.shape[1:]:
                size *= one
            sizes.append(str(size))
            forwards.append(f"{variable}.float().flatten(1)")
        elif spec.datatype in ("FP16", "FP32", "FP64"):
            sizes.append("1")
            forwards.append(f"{variable}.float().flatten(1).mean(dim=1, keepdim=True)")
        else:  # numbers of things: an embedding each, averaged; a text arrives as its bytes, 256 behind its end
            encoders.append(f"        self.embed{number} = nn.Embedding(4096, 32)")
            sizes.append("32")
            forwards.append(f"self.embed{number}({variable}.long().flatten(1) % 4096).mean(dim=1)")
    variables = ", ".join(f"x{number}: Tensor" for number in range(len(forwards))) if len(forwards) > 1 else "x: Tensor"
    joined = forwards[0] if len(forwards) == 1 else f"torch.cat([{', '.join(forwards)}], dim=1)"
    return string.Template(_template("student.txt")).substitute(
        name=plan.name,
        inputs="; ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in plan.fit.inputs),
        import_torch="import torch\n" if len(forwards) > 1 else "",
        encoders="".join(f"{line}\n" for line in encoders),
        size=" + ".join(sizes),
        classes=plan.fit.num_classes,
        variables=variables,
        joined=joined,
        class_name=name if is_class else "Student",
        function="" if is_class else _FUNCTION.format(name=name),
    )


def _spec(spec: TensorSpec) -> str:
    return f"{{ name = {_value(spec.name)}, datatype = {_value(spec.datatype)}, shape = {_value(list(spec.shape))} }}"


def _list(key: str, values: Iterable[str], comment: str) -> list[str]:
    """Return an array, on one line where it fits."""
    values = list(values)
    line = f"{key} = [{', '.join(values)}]  # {comment}"
    if len(line) <= WIDTH:
        return [line]
    lines = [f"# {key}: {comment}", f"{key} = ["]
    for value in values:
        if lines[-1].startswith("    ") and len(lines[-1]) + len(value) + 2 <= WIDTH:
            lines[-1] += f" {value},"
        else:
            lines.append(f"    {value},")
    return [*lines, "]"]


def _value(value: Any) -> str:
    """Return a plain value as TOML; JSON's strings and lists are TOML's too, but for what JSON leaves unescaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _template(name: str) -> str:
    return importlib.resources.files("everstill.project").joinpath("templates", name).read_text(encoding="utf-8")
