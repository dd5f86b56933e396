"""Settings: config.json and flags, checked. One definition gives a default, its check, its flag and its help."""

import argparse
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from support import console


class Setting(NamedTuple):
    """A setting's default, what a value has to be (in words and as a test) and what it does."""

    default: object
    meant: str
    accepts: Callable[[object], bool]
    help: str


def _text(default: str, help: str) -> Setting:
    def accepts(value: object) -> bool:
        try:
            return isinstance(value, str) and value != "" and b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            return False

    return Setting(default, "a text", accepts, help)


def _file(default: str, help: str) -> Setting:
    return Setting(default, "a file's name", lambda v: _text("", "").accepts(v) and Path(v).name != "", help)


def _word(default: str, words: list[str], help: str) -> Setting:
    return Setting(default, "one of " + ", ".join(map(console.quoted, words)), lambda value: value in words, help)


def integer(default: object, low: int, high: int, help: str, word: str | None = None) -> Setting:
    meant = f"a whole number from {low} to {high}" + (f' or "{word}"' if word else "")
    return Setting(default, meant, lambda v: (type(v) is int and low <= v <= high) or (word and v == word), help)


def number(default: float, low: float, high: float, help: str) -> Setting:
    return Setting(
        default, f"a number from {low} to {high}", lambda v: type(v) in (int, float) and low <= v <= high, help
    )


def _bool_or_path(default: bool, help: str) -> Setting:
    return Setting(default, "true, false or a path", lambda v: isinstance(v, bool) or _text("", "").accepts(v), help)


SHARED_SETTINGS = {
    "trainingdir": _text("data/sample/train", "folder of training paintings, one folder a style"),
    "testingdir": _text("data/sample/test", "folder of test paintings, one folder a style"),
    "outputdir": _text(".", "folder for every file written"),
    "cachedir": _text(".cache", "folder for decoded images"),
    "device": _text("auto", '"auto" (CUDA, else the CPU) or what torch.device takes'),
    "seed": integer(2326, 0, 2**32 - 1, "start of all random numbers"),
    "image_size": integer(64, 16, 1024, "side in pixels to which paintings are stretched"),
}


_TRAINING = {
    "validation": number(0.1, 0.0, 0.9, "share of the training paintings held out for choosing; 0 trains on all"),
    "epochs": integer(20, 1, 100_000, "passes over the training paintings"),
    "batch_size": integer(64, 1, 65_536, "paintings a step, over all processes together"),
}


SECTIONS = {
    "classifier": {
        "modelfile": _file("wikiart.pth", "checkpoint, in outputdir unless absolute"),
        "architecture": _text("residual", '"residual", "three_conv" or a classification model of torchvision'),
        "pretrained": _bool_or_path(False, "start from torchvision's weights (true) or from a state_dict (its path)"),
        "imbalance": _word(
            "weighted_sampler", ["none", "weighted_sampler", "smote"], "treatment of rare styles in training"
        ),
        "smote_target": integer(
            400, 1, 10_000_000, 'paintings a style at least under smote; "auto": as many as the largest style', "auto"
        ),
        **_TRAINING,
        "learning_rate": number(0.002, 1e-8, 10.0, "peak learning rate of AdamW"),
    },
    "autoencoder": {
        "modelfile": _file("autoencoder.pth", "checkpoint, in outputdir unless absolute"),
        "latent_dim": integer(128, 1, 4096, "numbers in the latent vector of a painting"),
        "clusters": integer("auto", 1, 1000, 'how many clusters; "auto": as many as there are styles', "auto"),
        **_TRAINING,
        "learning_rate": number(0.001, 1e-8, 10.0, "peak learning rate of AdamW"),
    },
}


class Settings(SimpleNamespace):
    """The shared settings and those of one section as attributes, each checked; `flags` are those given as flags."""

    def error(self, name: str, problem: str) -> console.UserError:
        """An error that names where the setting `name` comes from: the file and key, or the flag."""
        return console.UserError(f"{self.origins[name]}: {problem}")

    def output(self, name: str) -> Path:
        """The path of an output file: in `outputdir` unless `name` is absolute."""
        return Path(self.outputdir) / name

    def values(self) -> dict[str, object]:
        """Every setting's value by name, as plain data."""
        return {name: getattr(self, name) for name in self.origins}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise console.UserError(f"{self.prog}: {message}")


def _parse_json(text: str) -> object:
    def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"key {console.quoted(next(n for n in names if names.count(n) > 1))} stands there twice")
        return result

    return json.loads(text, object_pairs_hook=no_duplicates)


def _check_section(where: str, section: dict[str, object], known: dict[str, Setting]) -> None:
    for name, value in section.items():
        if name not in known:
            raise console.UserError(
                f"{where}: unknown key {console.quoted(name)}{console.did_you_mean(name, list(known))}"
            )
        if not known[name].accepts(value):
            raise console.UserError(f"{where}: {name}: found {console.shown(value)}, meant {known[name].meant}")


def read_config(path: str | os.PathLike) -> dict[str, object]:
    """Read and check a settings file; returns what it holds, defaults not filled in.

    Raises UserError, naming the file, the key, what was found and what is meant.
    """
    where = console.quoted(path)[1:-1]
    try:
        config = _parse_json(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise console.UserError(f"{where}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError holds JSON's and Unicode's own errors
        raise console.UserError(f"{where}: is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise console.UserError(f"{where}: found {console.shown(config)}, meant an object of settings")
    flat = [name for name in config if name not in SHARED_SETTINGS and any(name in s for s in SECTIONS.values())]
    if flat:
        homes = {name: " or ".join(console.quoted(s) for s in SECTIONS if name in SECTIONS[s]) for name in flat}
        raise console.UserError(
            f"{where}: " + ", ".join(f"{console.quoted(name)} belongs in {homes[name]} now" for name in flat)
        )
    sections = {name: config[name] for name in config if name in SECTIONS}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise console.UserError(f"{where}: {name}: found {console.shown(section)}, meant an object of settings")
        _check_section(f"{where}: {name}", section, SECTIONS[name])
    shared = {name: config[name] for name in config if name not in SECTIONS}
    unknown = [name for name in shared if name not in SHARED_SETTINGS]
    if unknown:
        known = list(SHARED_SETTINGS) + list(SECTIONS)
        raise console.UserError(
            f"{where}: unknown key {console.quoted(unknown[0])}{console.did_you_mean(unknown[0], known)}"
        )
    _check_section(where, shared, SHARED_SETTINGS)
    return config


def read(
    section: str, description: str, argv: list[str] | None, switches: dict[str, dict[str, object]] | None = None
) -> Settings:
    """Settings from the defaults, the settings file and the flags; flags win over the file, the file over defaults.

    `section` is "classifier" or "autoencoder"; `switches` are flags that are no settings, as argparse takes them.
    Raises UserError for anything that is not as it is meant.
    """
    known = SHARED_SETTINGS | SECTIONS[section]
    parser = Parser(description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", metavar="FILE", help="settings file (default: config.json beside the script)")
    for name, setting in known.items():
        text = f"{setting.help} (default: {json.dumps(setting.default)})".replace("%", "%%")
        parser.add_argument(f"--{name}", metavar="VALUE", help=text)
    for name, options in (switches or {}).items():
        parser.add_argument(name, **options)
    arguments, extra = parser.parse_known_args(argv)
    if extra:
        flags = ["--config", *(f"--{name}" for name in known), *(switches or {})]
        hint = console.did_you_mean(extra[0], flags) if extra[0].startswith("-") else "; see --help"
        raise console.UserError(f"{parser.prog}: unknown argument {console.quoted(extra[0])}{hint}")

    path = arguments.config or Path(__file__).parent.with_name("config.json")
    file_name = arguments.config or "config.json"
    config = read_config(path)
    values, origins, flags = {}, {}, set()
    for name, setting in known.items():
        shared = name in SHARED_SETTINGS
        values[name] = (config if shared else config.get(section, {})).get(name, setting.default)
        origins[name] = (
            f"{console.quoted(file_name)[1:-1]}: {name}"
            if shared
            else f"{console.quoted(file_name)[1:-1]}: {section}: {name}"
        )
        text = getattr(arguments, name)
        if text is not None:
            values[name], origins[name] = parse_flag(name, text, setting), f"--{name}"
            flags.add(name)
    switch_values = {name.lstrip("-"): getattr(arguments, name.lstrip("-")) for name in switches or {}}
    return Settings(section=section, origins=origins, flags=flags, **values, **switch_values)


def parse_flag(name: str, text: str, setting: Setting) -> object:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        if setting.accepts(value):
            return value
    if not setting.accepts(text):
        raise console.UserError(f"--{name}: found {console.quoted(text)}, meant {setting.meant}")
    return text


FRESH = {"--fresh": {"action": "store_true", "help": "start anew, whatever an interrupted run has left"}}
