from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OutputKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_KIND_UNSPECIFIED: _ClassVar[OutputKind]
    OUTPUT_KIND_LOGITS: _ClassVar[OutputKind]
    OUTPUT_KIND_PROBABILITIES: _ClassVar[OutputKind]
    OUTPUT_KIND_TOP_K: _ClassVar[OutputKind]
    OUTPUT_KIND_LABEL: _ClassVar[OutputKind]
OUTPUT_KIND_UNSPECIFIED: OutputKind
OUTPUT_KIND_LOGITS: OutputKind
OUTPUT_KIND_PROBABILITIES: OutputKind
OUTPUT_KIND_TOP_K: OutputKind
OUTPUT_KIND_LABEL: OutputKind

class Tensor(_message.Message):
    __slots__ = ("name", "datatype", "shape", "raw")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    raw: bytes
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., raw: _Optional[bytes] = ...) -> None: ...

class ArmTaken(_message.Message):
    __slots__ = ("arm", "probability")
    ARM_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    arm: str
    probability: float
    def __init__(self, arm: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class TeacherOutput(_message.Message):
    __slots__ = ("version", "kind", "output", "latency_s", "cost")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    version: str
    kind: OutputKind
    output: Tensor
    latency_s: float
    cost: float
    def __init__(self, version: _Optional[str] = ..., kind: _Optional[_Union[OutputKind, str]] = ..., output: _Optional[_Union[Tensor, _Mapping]] = ..., latency_s: _Optional[float] = ..., cost: _Optional[float] = ...) -> None: ...

class StudentOutput(_message.Message):
    __slots__ = ("version", "logits", "latency_s")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    version: str
    logits: Tensor
    latency_s: float
    def __init__(self, version: _Optional[str] = ..., logits: _Optional[_Union[Tensor, _Mapping]] = ..., latency_s: _Optional[float] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("record_id", "input_key", "time_unix_ns", "stratum", "slice", "client_tag", "subject_tag", "inputs", "student", "arms", "policy_id", "trial_id", "teacher", "sequence", "label")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_KEY_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    STRATUM_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_TAG_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_TAG_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    TRIAL_ID_FIELD_NUMBER: _ClassVar[int]
    TEACHER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    input_key: bytes
    time_unix_ns: int
    stratum: str
    slice: str
    client_tag: bytes
    subject_tag: bytes
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    student: StudentOutput
    arms: _containers.RepeatedCompositeFieldContainer[ArmTaken]
    policy_id: str
    trial_id: str
    teacher: TeacherOutput
    sequence: int
    label: Label
    def __init__(self, record_id: _Optional[bytes] = ..., input_key: _Optional[bytes] = ..., time_unix_ns: _Optional[int] = ..., stratum: _Optional[str] = ..., slice: _Optional[str] = ..., client_tag: _Optional[bytes] = ..., subject_tag: _Optional[bytes] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., student: _Optional[_Union[StudentOutput, _Mapping]] = ..., arms: _Optional[_Iterable[_Union[ArmTaken, _Mapping]]] = ..., policy_id: _Optional[str] = ..., trial_id: _Optional[str] = ..., teacher: _Optional[_Union[TeacherOutput, _Mapping]] = ..., sequence: _Optional[int] = ..., label: _Optional[_Union[Label, _Mapping]] = ...) -> None: ...

class TrialAnswer(_message.Message):
    __slots__ = ("trial_id", "incumbent_version", "candidate_version", "incumbent_class", "candidate_class", "brier_base", "brier_slope")
    TRIAL_ID_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_CLASS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_CLASS_FIELD_NUMBER: _ClassVar[int]
    BRIER_BASE_FIELD_NUMBER: _ClassVar[int]
    BRIER_SLOPE_FIELD_NUMBER: _ClassVar[int]
    trial_id: str
    incumbent_version: str
    candidate_version: str
    incumbent_class: int
    candidate_class: int
    brier_base: float
    brier_slope: bytes
    def __init__(self, trial_id: _Optional[str] = ..., incumbent_version: _Optional[str] = ..., candidate_version: _Optional[str] = ..., incumbent_class: _Optional[int] = ..., candidate_class: _Optional[int] = ..., brier_base: _Optional[float] = ..., brier_slope: _Optional[bytes] = ...) -> None: ...

class LogitPair(_message.Message):
    __slots__ = ("record_id", "input_key", "time_unix_ns", "stratum", "slice", "client_tag", "subject_tag", "inputs", "student", "teacher", "hidden_features", "arms", "policy_id", "trial")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_KEY_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    STRATUM_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_TAG_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_TAG_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    TEACHER_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FEATURES_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    input_key: bytes
    time_unix_ns: int
    stratum: str
    slice: str
    client_tag: bytes
    subject_tag: bytes
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    student: StudentOutput
    teacher: TeacherOutput
    hidden_features: _containers.RepeatedCompositeFieldContainer[Tensor]
    arms: _containers.RepeatedCompositeFieldContainer[ArmTaken]
    policy_id: str
    trial: TrialAnswer
    def __init__(self, record_id: _Optional[bytes] = ..., input_key: _Optional[bytes] = ..., time_unix_ns: _Optional[int] = ..., stratum: _Optional[str] = ..., slice: _Optional[str] = ..., client_tag: _Optional[bytes] = ..., subject_tag: _Optional[bytes] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., student: _Optional[_Union[StudentOutput, _Mapping]] = ..., teacher: _Optional[_Union[TeacherOutput, _Mapping]] = ..., hidden_features: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., arms: _Optional[_Iterable[_Union[ArmTaken, _Mapping]]] = ..., policy_id: _Optional[str] = ..., trial: _Optional[_Union[TrialAnswer, _Mapping]] = ...) -> None: ...

class Columns(_message.Message):
    __slots__ = ("inputs", "student_logits", "teacher_output")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    STUDENT_LOGITS_FIELD_NUMBER: _ClassVar[int]
    TEACHER_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    student_logits: Tensor
    teacher_output: Tensor
    def __init__(self, inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., student_logits: _Optional[_Union[Tensor, _Mapping]] = ..., teacher_output: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class PairBatch(_message.Message):
    __slots__ = ("pairs", "columns")
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    pairs: _containers.RepeatedCompositeFieldContainer[LogitPair]
    columns: Columns
    def __init__(self, pairs: _Optional[_Iterable[_Union[LogitPair, _Mapping]]] = ..., columns: _Optional[_Union[Columns, _Mapping]] = ...) -> None: ...

class TrialRow(_message.Message):
    __slots__ = ("record_id", "input_key", "slice", "agree", "incumbent_class", "candidate_class", "probability", "time_unix_ns")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_KEY_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    AGREE_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_CLASS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_CLASS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    input_key: bytes
    slice: str
    agree: bool
    incumbent_class: int
    candidate_class: int
    probability: float
    time_unix_ns: int
    def __init__(self, record_id: _Optional[bytes] = ..., input_key: _Optional[bytes] = ..., slice: _Optional[str] = ..., agree: _Optional[bool] = ..., incumbent_class: _Optional[int] = ..., candidate_class: _Optional[int] = ..., probability: _Optional[float] = ..., time_unix_ns: _Optional[int] = ...) -> None: ...

class TrialBatch(_message.Message):
    __slots__ = ("trial_id", "incumbent_version", "candidate_version", "rows")
    TRIAL_ID_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    trial_id: str
    incumbent_version: str
    candidate_version: str
    rows: _containers.RepeatedCompositeFieldContainer[TrialRow]
    def __init__(self, trial_id: _Optional[str] = ..., incumbent_version: _Optional[str] = ..., candidate_version: _Optional[str] = ..., rows: _Optional[_Iterable[_Union[TrialRow, _Mapping]]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("record_id", "label", "time_unix_ns", "label_class", "known")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    LABEL_CLASS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    record_id: bytes
    label: str
    time_unix_ns: int
    label_class: int
    known: bool
    def __init__(self, record_id: _Optional[bytes] = ..., label: _Optional[str] = ..., time_unix_ns: _Optional[int] = ..., label_class: _Optional[int] = ..., known: _Optional[bool] = ...) -> None: ...

class LabelBatch(_message.Message):
    __slots__ = ("labels",)
    LABELS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    def __init__(self, labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ...) -> None: ...

class CaptureReport(_message.Message):
    __slots__ = ("gateway", "worker", "epoch", "first_sequence", "last_sequence", "strata", "breaker_open", "teacher_calls", "gaps", "mirror", "topics", "labels", "time_unix_ns")
    class ArmCount(_message.Message):
        __slots__ = ("arm", "taken")
        ARM_FIELD_NUMBER: _ClassVar[int]
        TAKEN_FIELD_NUMBER: _ClassVar[int]
        arm: str
        taken: int
        def __init__(self, arm: _Optional[str] = ..., taken: _Optional[int] = ...) -> None: ...
    class Stratum(_message.Message):
        __slots__ = ("stratum", "seen", "confidence_sum", "arms", "dropped", "missing", "pending", "sampled", "published", "spooled", "gaps")
        STRATUM_FIELD_NUMBER: _ClassVar[int]
        SEEN_FIELD_NUMBER: _ClassVar[int]
        CONFIDENCE_SUM_FIELD_NUMBER: _ClassVar[int]
        ARMS_FIELD_NUMBER: _ClassVar[int]
        DROPPED_FIELD_NUMBER: _ClassVar[int]
        MISSING_FIELD_NUMBER: _ClassVar[int]
        PENDING_FIELD_NUMBER: _ClassVar[int]
        SAMPLED_FIELD_NUMBER: _ClassVar[int]
        PUBLISHED_FIELD_NUMBER: _ClassVar[int]
        SPOOLED_FIELD_NUMBER: _ClassVar[int]
        GAPS_FIELD_NUMBER: _ClassVar[int]
        stratum: str
        seen: int
        confidence_sum: float
        arms: _containers.RepeatedCompositeFieldContainer[CaptureReport.ArmCount]
        dropped: int
        missing: int
        pending: int
        sampled: int
        published: int
        spooled: int
        gaps: int
        def __init__(self, stratum: _Optional[str] = ..., seen: _Optional[int] = ..., confidence_sum: _Optional[float] = ..., arms: _Optional[_Iterable[_Union[CaptureReport.ArmCount, _Mapping]]] = ..., dropped: _Optional[int] = ..., missing: _Optional[int] = ..., pending: _Optional[int] = ..., sampled: _Optional[int] = ..., published: _Optional[int] = ..., spooled: _Optional[int] = ..., gaps: _Optional[int] = ...) -> None: ...
    class Span(_message.Message):
        __slots__ = ("start_unix_ns", "end_unix_ns")
        START_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
        END_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
        start_unix_ns: int
        end_unix_ns: int
        def __init__(self, start_unix_ns: _Optional[int] = ..., end_unix_ns: _Optional[int] = ...) -> None: ...
    class Topic(_message.Message):
        __slots__ = ("kind", "messages", "records")
        KIND_FIELD_NUMBER: _ClassVar[int]
        MESSAGES_FIELD_NUMBER: _ClassVar[int]
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        kind: str
        messages: int
        records: int
        def __init__(self, kind: _Optional[str] = ..., messages: _Optional[int] = ..., records: _Optional[int] = ...) -> None: ...
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STRATA_FIELD_NUMBER: _ClassVar[int]
    BREAKER_OPEN_FIELD_NUMBER: _ClassVar[int]
    TEACHER_CALLS_FIELD_NUMBER: _ClassVar[int]
    GAPS_FIELD_NUMBER: _ClassVar[int]
    MIRROR_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    worker: int
    epoch: int
    first_sequence: int
    last_sequence: int
    strata: _containers.RepeatedCompositeFieldContainer[CaptureReport.Stratum]
    breaker_open: _containers.RepeatedCompositeFieldContainer[CaptureReport.Span]
    teacher_calls: int
    gaps: int
    mirror: bool
    topics: _containers.RepeatedCompositeFieldContainer[CaptureReport.Topic]
    labels: int
    time_unix_ns: int
    def __init__(self, gateway: _Optional[str] = ..., worker: _Optional[int] = ..., epoch: _Optional[int] = ..., first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., strata: _Optional[_Iterable[_Union[CaptureReport.Stratum, _Mapping]]] = ..., breaker_open: _Optional[_Iterable[_Union[CaptureReport.Span, _Mapping]]] = ..., teacher_calls: _Optional[int] = ..., gaps: _Optional[int] = ..., mirror: _Optional[bool] = ..., topics: _Optional[_Iterable[_Union[CaptureReport.Topic, _Mapping]]] = ..., labels: _Optional[int] = ..., time_unix_ns: _Optional[int] = ...) -> None: ...
