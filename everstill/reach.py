"""Which gateway and which model a command means: of the configuration, or at an address. Used by infer and feedback; asks, changes nothing."""

import pathlib

from everstill.config import EverstillSettings
from everstill.options import config_path, models_of
from protos.errors import ConfigurationError, EverstillError, UnavailableError
from registry.status import read_statuses
from registry.store import open_store
from serving.rpc.client import InferenceClient


def settings_meant(config: pathlib.Path | None, model: str | None, address: str | None) -> EverstillSettings | None:
    """Return the settings of the model, or None where an address is given and no file says more about the model.

    Raises:
        ConfigurationError: there are several models and none is named.
    """
    if address and config_path(config) is None:
        return None
    models = models_of(config)
    if model is not None and model in models:
        return models[model]
    if len(models) == 1:
        (settings,) = models.values()
        return settings
    if address:
        return None
    raise ConfigurationError(
        f"the configuration has {len(models)} models: {', '.join(models)}", fix="Name one with --model"
    )


def gateway_address(settings: EverstillSettings) -> str:
    """Return where the configured gateway listens: its port, or, where any will do, what it says of itself.

    Raises:
        UnavailableError: no gateway says anything.
    """
    if settings.gateway.port:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.gateway.host, settings.gateway.host)
        return f"{host}:{settings.gateway.port}"
    try:
        status = read_statuses(open_store(settings.registry.url), settings.model.name).get(settings.gateway.id, {})
    except EverstillError:
        status = {}
    if not status.get("address") or status.get("stopped"):
        raise UnavailableError("no gateway runs here", fix="Start one with everstill up, or give --address")
    return str(status["address"])


def model_meant(
    client: InferenceClient, model: str | None, settings: EverstillSettings | None, address: str | None
) -> str:
    """Return the model's name: what is given, what the configuration says of its own gateway, or the one that the server has.

    Raises:
        ConfigurationError: the server has several. RpcError: it doesn't answer.
    """
    if model or (settings and not address):
        return model or (settings.model.name if settings else "")
    names = sorted({one.name for one in client.index()})
    if len(names) != 1:
        raise ConfigurationError(
            f"{client.address} has {len(names)} models: {', '.join(names)}", fix="Name one with --model"
        )
    return names[0]
