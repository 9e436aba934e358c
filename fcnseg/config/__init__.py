"""Every option of every verb, declared once.

The command line's flags, the TOML file (`--config`, and the config.toml of every run)
and the Python API are all made from these classes. A value is checked when a config is
made; `make` and `load` raise OptionError: which option, what was found, what was expected.
Precedence: default < TOML < flag.

These modules know nothing of terminals (fcnseg.cli makes the flags) and do not import
torch, so that `--help` stays fast.
"""

from __future__ import annotations

from fcnseg.config.choices import Decoder, EngineName, Flag, Fuse, Upsampling
from fcnseg.config.dataset import CheckConfig
from fcnseg.config.frames import InferConfig, VizConfig
from fcnseg.config.options import read_toml, toml_value
from fcnseg.config.shipping import BenchConfig, DemoConfig, ExportConfig
from fcnseg.config.training import EvalConfig, TrainConfig

CONFIGS = (
    CheckConfig,
    TrainConfig,
    EvalConfig,
    InferConfig,
    VizConfig,
    ExportConfig,
    BenchConfig,
    DemoConfig,
)


__all__ = [
    "CONFIGS",
    "BenchConfig",
    "CheckConfig",
    "Decoder",
    "DemoConfig",
    "EngineName",
    "EvalConfig",
    "ExportConfig",
    "Flag",
    "Fuse",
    "InferConfig",
    "TrainConfig",
    "Upsampling",
    "VizConfig",
    "read_toml",
    "toml_value",
]
