"""The whole `everstill.toml`: every room's sections in one schema, in which an unknown section is an error.

Imports the rooms' settings modules, which hold no logic, and nothing else of them.
"""

from pydantic_settings import SettingsConfigDict

from distill_loop.config import LoopSettings
from serving.config import ServingSettings


class EverstillSettings(ServingSettings, LoopSettings):
    """Configuration of an everstill deployment: one file for all of its processes."""

    model_config = SettingsConfigDict(extra="forbid")
