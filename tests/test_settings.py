"""Settings: defaults, file, flags, help and errors."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import testtrainauto
import testtrainpart1
import trainpart1
import wikiart
from support.system import console, settings

SHIPPED = json.loads((Path(wikiart.__file__).parent / "config.json").read_text())
SECTIONS = {name: SHIPPED[name] for name in ("classifier", "autoencoder")}
SHARED = {name: value for name, value in SHIPPED.items() if name not in SECTIONS}
CLASSIFIER = SECTIONS["classifier"]


def read(section="classifier", *flags, switches=None):
    return settings.read(section, "", list(map(str, flags)), switches)


def of(options, names):
    return {name: getattr(options, name) for name in names}


@pytest.fixture
def write(workdir):
    """write(content) makes c.json in the current folder; content is text or a value."""
    return lambda content: (workdir / "c.json").write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize("section", SECTIONS)
def test_the_shipped_file_the_defaults_the_flags_and_the_help_agree(write, section, run, monkeypatch):
    names = SHARED | SECTIONS[section]
    assert names == {name: setting.default for name, setting in (settings.SHARED | settings.SECTIONS[section]).items()}
    write({section: {}})
    assert of(read(section, "-c", "c.json"), names) == names
    flags = [f"--{name}={str(value).lower() if name == 'pretrained' else value}" for name, value in names.items()]
    options = read(section, *flags)
    assert of(options, names) == names and options.flags == names.keys()
    monkeypatch.setenv("COLUMNS", "400")
    help = " ".join(run(trainpart1, "--help").out.split())
    for name, setting in (settings.SHARED | settings.SECTIONS["classifier"]).items():
        default = json.dumps(setting.default)
        assert setting.help and setting.accepts(setting.default)
        assert f"--{name} VALUE {setting.help}; {setting.expected} (default: {default})" in help


def test_flags_win_over_the_file_and_the_file_over_defaults(write):
    content = {"classifier": {"epochs": 7, "learning_rate": 0.5}, "autoencoder": {"epochs": 4}}
    write({"seed": 5, "image_size": 32, **content})
    options = read("classifier", "--config", "c.json", "--seed", 6, "--epochs=8")
    assert (options.seed, options.image_size, options.epochs, options.learning_rate) == (6, 32, 8, 0.5)
    assert options.batch_size == CLASSIFIER["batch_size"] and options.flags == {"seed", "epochs"}
    assert read("autoencoder", "-c", "c.json").epochs == 4
    assert read().seed == SHARED["seed"]  # from the file beside the scripts


@pytest.mark.parametrize(
    "name, text, value",
    [("validation", ".1", 0.1), ("learning_rate", "1.", 1.0), ("learning_rate", "+0.1", 0.1), ("epochs", "+3", 3),
     ("pretrained", "1", "1"), ("pretrained", "False", False), ("smote_target", "auto", "auto")],
)  # fmt: skip
def test_flags_are_read_as_people_write_them(name, text, value):
    got = getattr(read("classifier", f"--{name}", text), name)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("script, more", [(testtrainpart1, settings.TRAINING), (testtrainauto, {"epochs"})])
def test_a_test_script_refuses_what_applies_to_training_only(script, more, run, refused, workdir):
    for name in more:
        line = refused(script, f"--{name}={CLASSIFIER[name]}")
        assert line == f"--{name}: applies to training only; the network comes from the checkpoint"
        assert f"--{name} " not in run(script, "--help").out
    for name in ("device", "image_size", "batch_size"):
        assert f"--{name} " in run(script, "--help").out


def test_home_and_variables_in_paths_are_expanded(write, workdir, monkeypatch):
    monkeypatch.setenv("HOME", str(workdir))
    monkeypatch.setenv("DISK", "/disk")
    write({"trainingdir": "~/train", "cachedir": "$DISK/cache", "classifier": {"pretrained": "~/w.pth"}})
    (workdir / "a$HOME.jpg").touch()  # exists, and is taken as it is written
    flags = ["--outputdir", "${HOME}/out", "--modelfile=$DISK/m.pth", "--predict", "~/a.jpg", "$HOME/b", "a$HOME.jpg"]
    options = read("classifier", "-c", "~/c.json", *flags, "--csv=~/p.csv", switches=testtrainpart1.SWITCHES)
    home = os.getcwd()
    expected = {"trainingdir": f"{home}/train", "cachedir": "/disk/cache", "pretrained": f"{home}/w.pth",
                "outputdir": f"{home}/out", "modelfile": "/disk/m.pth", "csv": f"{home}/p.csv",
                "predict": [f"{home}/a.jpg", f"{home}/b", "a$HOME.jpg"]}  # fmt: skip
    assert of(options, expected) == expected


def test_a_variable_or_user_that_does_not_exist_makes_no_folder_of_its_name(write, workdir, monkeypatch):
    monkeypatch.delenv("DATA", raising=False)
    write({"outputdir": "${DATA}/out"})
    with pytest.raises(console.UserError, match=r"^c\.json: outputdir: .* environment variable \$DATA is not set$"):
        read("classifier", "-c", "c.json")
    with pytest.raises(console.UserError, match=r"^--csv: .* \$DATA is not set$"):
        read("classifier", "--predict", "a.jpg", "--csv", "$DATA/p.csv", switches=testtrainpart1.SWITCHES)
    with pytest.raises(console.UserError, match='"~nosuchuser/out", but there is no such user'):
        read("classifier", "--outputdir", "~nosuchuser/out")
    (workdir / "$DATA").mkdir()
    for path in "$DATA", "Pay_$5":
        assert read("classifier", "--outputdir", path).outputdir == path
    assert read("classifier", "--trainingdir", "$GONE/train").trainingdir == "$GONE/train"  # nothing is made there


BAD_FILES = [
    ({"classifier": {"epoch": 3}}, 'classifier: unknown key "epoch"; did you mean "epochs"?'),
    ({"epochs": 3}, 'unknown key "epochs"; expected in "classifier"; "autoencoder"'),
    ({"classifier": {"epochs": "3"}}, 'classifier: epochs: got "3", expected a whole number from 0 to'),
    ({"classifier": {"imbalance": "smoke"}}, 'got "smoke", expected one of none, weighted_sampler, smote'),
    ({"autoencoder": {"clusters": None}}, 'clusters: got null, expected a whole number from 1 to 1000 or "auto"'),
    ([], "got [], expected an object of settings"),
    ('{"classifier": {"learning_rate": NaN}}', "learning_rate: got NaN, expected a number"),
    ("[" * 100_000, "is not JSON: "),
]


@pytest.mark.parametrize("content, words", BAD_FILES)
def test_a_bad_file_is_one_line_with_key_got_and_expected(write, refused, content, words):
    write(content)
    line = refused(trainpart1, "--config", "c.json")
    assert line.startswith("c.json: ") and words in line and len(line) < 600, line


def test_a_settings_file_that_cannot_be_read_is_named(workdir, refused):
    assert refused(trainpart1, "-c", "missing.json") == "missing.json: cannot be read: No such file or directory"
    (workdir / "c.json").write_bytes(b'{"trainingdir": "\xff\xfe"}')
    assert refused(trainpart1, "-c", "c.json").startswith("c.json: is not JSON")
    (workdir / "c.json").write_text('{"seed": 4}', encoding="utf-8-sig")
    assert read("classifier", "-c", "c.json").seed == 4


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--epoch", "3"], '"--epoch"; did you mean "--epochs"?'),  # no abbreviations
        (["paintings"], 'unknown argument "paintings"; known: --config; '),
        (["--epochs"], "argument --epochs: expected one argument"),
        (["--epochs", "9" * 5000], "expected a whole number"),
        (["--seed", "1\n2"], r'--seed: got "1\n2"'),
    ],
)
def test_a_bad_flag_is_one_line(refused, flags, words):
    assert words in refused(trainpart1, *flags)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
KEYS = st.sampled_from([*SHIPPED, *CLASSIFIER, "clusters"]) | st.text(max_size=8)


@given(st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=2), max_size=3), st.integers(0, 300))
@hypothesis_settings(max_examples=100, deadline=None, database=None)
def test_any_mutated_file_is_read_or_refused_in_one_line(tmp_path_factory, change, end):
    """Settings replaced by anything, and files that end too early."""
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({"seed": 1, "autoencoder": {"clusters": 3}} | change)[: end if end > 9 else None])
    try:
        settings.read("classifier", "", ["--config", str(path)])
    except console.UserError as error:
        assert str(error).isprintable() and str(error).startswith(str(path))


def test_the_settings_files_that_we_ship_can_be_read():
    for name in "config.json", "transfer.json":
        values = read("classifier", "-c", Path(wikiart.__file__).parent / "data" / "wikiart" / name)
        assert values.epochs or values.pretrained
