"""config.json and flags -> checked settings. One table gives a setting's default, type, range, flag and help line."""

import argparse
import contextlib
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from support.system import console, files
from support.system.console import UserError


class Setting(NamedTuple):
    """A setting's default, which values it takes (in words and as a test) and what it does."""

    default: object
    expected: str
    accepts: Callable[[object], bool]
    help: str


def _text(default: str, help: str, expected: str = "text") -> Setting:
    return Setting(default, expected, lambda value: isinstance(value, str) and value != "", help)


def integer(default: int | str, low: int, high: int, help: str, word: str | None = None) -> Setting:
    """A whole number from `low` to `high`, or `word`."""
    expected = f"a whole number from {low} to {high}" + (f' or "{word}"' if word else "")
    return Setting(default, expected, lambda v: (type(v) is int and low <= v <= high) or (word and v == word), help)


def number(default: float, low: float, high: float, help: str) -> Setting:
    """A number from `low` to `high`."""
    expected = f"a number from {low} to {high}"
    return Setting(default, expected, lambda v: type(v) in (int, float) and low <= v <= high, help)


IMBALANCE = ["none", "weighted_sampler", "smote"]
WRITTEN = ("outputdir", "cachedir", "modelfile")
PATHS = ("trainingdir", "testingdir", *WRITTEN)
TRAINING = {"pretrained", "imbalance", "smote_target", "validation", "epochs", "learning_rate"}
SHARED = {
    "trainingdir": _text("data/sample/train", "folder of training paintings, one folder per style", "a path"),
    "testingdir": _text("data/sample/test", "folder of test paintings, one folder per style", "a path"),
    "outputdir": _text(".", "folder for every file written", "a path"),
    "cachedir": _text(".cache", "folder for decoded images", "a path"),
    "device": _text("auto", '"auto" (CUDA if available, else the CPU) or a name for torch.device'),
    "seed": integer(2326, 0, 2**32 - 1, "random seed"),
    "image_size": integer(64, 16, 1024, "side in pixels to which paintings are stretched"),
}
_VALIDATION = number(0.1, 0.0, 0.9, "share of the training paintings held out; 0 trains on all of them")
_PRETRAINED = Setting(False, "true, false or a path", lambda v: isinstance(v, bool | str) and v != "",
    "start from torchvision's weights (true) or from a state_dict file (its path)")  # fmt: skip
_BATCH_SIZE = integer(64, 1, 65_536, "paintings per step, over all processes together")
SECTIONS = {
    "classifier": {
        "modelfile": _text("wikiart.pth", "checkpoint, in outputdir unless absolute", "a path"),
        "architecture": _text("residual", '"residual", "three_conv" or a classification model of torchvision'),
        "pretrained": _PRETRAINED,
        "imbalance": Setting("weighted_sampler", f"one of {', '.join(IMBALANCE)}", IMBALANCE.__contains__,
            "method against class imbalance"),
        "smote_target": integer(400, 1, 10**7, 'least paintings per style under smote; "auto": as the largest', "auto"),
        "validation": _VALIDATION,
        "epochs": integer(20, 0, 100_000, "passes over the paintings; 0: only fit the head to a pretrained trunk"),
        "batch_size": _BATCH_SIZE,
        "learning_rate": number(0.002, 1e-8, 10.0, "peak learning rate of AdamW"),
    },
    "autoencoder": {
        "modelfile": _text("autoencoder.pth", "checkpoint, in outputdir unless absolute", "a path"),
        "latent_dim": integer(128, 2, 4096, "size of the latent vector of a painting"),
        "architecture": _text("none", '"none" or a network: its features, beside histograms, give the style numbers'),
        "pretrained": _PRETRAINED,
        "clusters": integer("auto", 1, 1000, 'number of clusters; "auto": as many as there are styles', "auto"),
        "validation": _VALIDATION,
        "epochs": integer(20, 1, 100_000, "passes over the training paintings"),
        "batch_size": _BATCH_SIZE,
        "learning_rate": number(0.004, 1e-8, 10.0, "peak learning rate of AdamW"),
    },
}  # fmt: skip
FRESH = {"--fresh": {"action": "store_true", "help": "start a new run, ignoring any earlier one"}}


class Settings(SimpleNamespace):
    """The shared settings and those of one section as attributes, each checked.

    flags: names of the settings given as flags; origins: name -> file and key, or flag.
    """

    def error(self, name: str, problem: str) -> UserError:
        """An error that names where the setting `name` comes from."""
        return UserError(f"{self.origins[name]}: {problem}")

    @contextlib.contextmanager
    def checking(self, name: str, kind: type[UserError] = UserError) -> Iterator[None]:
        """Name where the setting `name` comes from in errors of a `kind`."""
        try:
            yield
        except kind as error:
            raise self.error(name, str(error)) from None

    def output(self, name: str) -> Path:
        """The path of an output file: in `outputdir` unless `name` is absolute."""
        return Path(self.outputdir) / name

    def values(self) -> dict[str, object]:
        """The settings that shape a result, by name: without folders; of a file of weights its name alone."""
        values = {name: getattr(self, name) for name in self.origins if name not in PATHS}
        if isinstance(values.get("pretrained"), str):
            values["pretrained"] = os.path.basename(values["pretrained"])
        return values


def _check(where: str, values: object, known: dict[str, Setting | dict]) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{where}: got {console.shown(values)}, expected an object of settings")
    for name, value in values.items():
        if name not in known:
            sections = [section for section in SECTIONS if name in SECTIONS[section]]
            hint = f"; expected in {console.names(sections)}" if sections else console.did_you_mean(name, [*known])
            raise UserError(f"{where}: unknown key {console.quoted(name)}{hint}")
        if isinstance(known[name], dict):
            _check(f"{where}: {name}", value, known[name])
        elif not known[name].accepts(value):
            raise UserError(f"{where}: {name}: got {console.shown(value)}, expected {known[name].expected}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"duplicate key {console.quoted(name)}")
    return dict(pairs)


def read_config(path: str | os.PathLike) -> dict[str, object]:
    """What a settings file holds, checked, without defaults; raises UserError that names file, key and both values."""
    where = console.printable(path)
    try:
        config = json.loads(Path(path).read_text("utf-8-sig"), object_pairs_hook=_unique)
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError includes JSON's and Unicode's own errors
        raise UserError(f"{where}: is not JSON: {error}") from None
    _check(where, config, SHARED | SECTIONS)
    return config


def parse_flag(name: str, text: str, setting: Setting) -> object:
    """The value of a flag: the first of a whole number, a number, true, false and the text that the setting takes."""
    for convert in (int, float, lambda text: {"true": True, "false": False}[text.lower()], str):
        with contextlib.suppress(ValueError, KeyError):
            if setting.accepts(value := convert(text)):
                return value
    raise UserError(f"--{name}: got {console.quoted(text)}, expected {setting.expected}")


def read(
    section: str, doc: str, argv: list[str] | None, switches: dict[str, dict] | None = None, training: bool = True
) -> Settings:
    """Settings from the defaults, the settings file and the flags; flags win over the file, the file over defaults.

    section: "classifier" or "autoencoder"; doc: what --help begins with; switches: flags that are not settings, with
    their argparse options; training: false for a test script, to which flags of `TRAINING` are errors. Raises UserError
    for a key, flag or value that is unknown or out of range.
    """
    known, switches = SHARED | SECTIONS[section], switches or {}
    parser = console.Parser(description=doc, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", metavar="FILE", help="settings file (default: config.json beside the script)")
    for name, setting in known.items():
        text = f"{setting.help}; {setting.expected} (default: {json.dumps(setting.default)})".replace("%", "%%")
        convert = functools.partial(parse_flag, name, setting=setting)
        hidden = name in TRAINING and not training
        parser.add_argument(f"--{name}", metavar="VALUE", type=convert, help=argparse.SUPPRESS if hidden else text)
    for name, options in switches.items():
        parser.add_argument(name, **options)
    arguments, extra = parser.parse_known_args(argv)
    if extra:
        hint = console.did_you_mean(extra[0], ["--config", *(f"--{name}" for name in known), *switches])
        raise UserError(f"{parser.prog}: unknown argument {console.quoted(extra[0])}{hint}")
    given = vars(arguments)
    flags = {name for name in known if given[name] is not None}
    if not training and (refused := flags & TRAINING):
        raise UserError(f"--{min(refused)}: applies to training only; the network comes from the checkpoint")

    chosen = files.expand(given["config"], "--config")
    config = read_config(chosen or Path(__file__).parents[2] / "config.json")
    config |= config.get(section, {})
    values, origins = {}, {}
    for name, setting in known.items():
        place = f"{console.printable(chosen or 'config.json')}: " + ("" if name in SHARED else f"{section}: ")
        origins[name] = f"--{name}" if name in flags else place + name
        value = given[name] if name in flags else config.get(name, setting.default)
        values[name] = files.expand(value, origins[name], name in WRITTEN)
    switched = {name[2:]: files.expand(given[name[2:]], name, name == "--csv") for name in switches}
    return Settings(flags=flags, origins=origins, **values, **switched)
