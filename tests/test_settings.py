"""Settings: defaults, file, flags, help and errors."""

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import testtrainpart1
import trainpart1
import wikiart
from support import console, devices, settings

SHARED = {
    "trainingdir": "data/sample/train",
    "testingdir": "data/sample/test",
    "outputdir": ".",
    "cachedir": ".cache",
    "device": "auto",
    "seed": 2326,
    "image_size": 64,
}
CLASSIFIER = {
    "modelfile": "wikiart.pth",
    "architecture": "residual",
    "pretrained": False,
    "imbalance": "weighted_sampler",
    "smote_target": 400,
    "validation": 0.1,
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 0.002,
}
AUTOENCODER = {
    "modelfile": "autoencoder.pth",
    "latent_dim": 128,
    "clusters": "auto",
    "validation": 0.1,
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 0.001,
}
CONTRACT = {"classifier": CLASSIFIER, "autoencoder": AUTOENCODER}
PART1 = [trainpart1, testtrainpart1]
SHIPPED = os.path.join(os.path.dirname(wikiart.__file__), "config.json")


def read(section="classifier", *flags):
    return settings.read(section, "", [str(flag) for flag in flags])


def of(options, names):
    return {name: getattr(options, name) for name in names}


@pytest.fixture
def write(workdir):
    """write(content) makes config.json in the current folder; content is text or a value."""

    def write(content):
        text = content if isinstance(content, str) else json.dumps(content)
        (workdir / "config.json").write_text(text, encoding="utf-8")

    return write


def test_config_as_shipped_is_the_contract():
    with open(SHIPPED) as file:
        assert json.load(file) == SHARED | CONTRACT


@pytest.mark.parametrize("section", CONTRACT)
def test_missing_keys_take_the_defaults_of_the_contract(write, section):
    for content in ({}, {section: {}}):
        write(content)
        options = read(section, "-c", "config.json")
        assert of(options, SHARED | CONTRACT[section]) == SHARED | CONTRACT[section]
        assert options.values() == of(options, options.values())


def test_config_beside_the_scripts_is_read_from_any_folder(write, monkeypatch, tmp_path):
    write({"seed": 1})  # the one in the current folder is not the one beside the scripts
    assert read().seed == SHARED["seed"]


@pytest.mark.parametrize("section", CONTRACT)
def test_flags_win_over_the_file_and_the_file_over_defaults(write, section):
    write({"seed": 5, "image_size": 32, section: {"epochs": 7, "learning_rate": 0.5}})
    options = read(section, "--config", "config.json", "--seed", 6, "--epochs=8")
    assert (options.seed, options.image_size, options.epochs, options.learning_rate) == (6, 32, 8, 0.5)
    assert options.batch_size == CONTRACT[section]["batch_size"]
    assert options.flags == {"seed", "epochs"}


def test_a_section_takes_nothing_from_the_other(write):
    write({"classifier": {"epochs": 3}, "autoencoder": {"epochs": 4}})
    assert [read(section, "-c", "config.json").epochs for section in CONTRACT] == [3, 4]


OTHER_VALUES = {
    "trainingdir": "paintings/train", "testingdir": "t", "outputdir": "out", "cachedir": "c", "device": "cpu",
    "seed": 0, "image_size": 96, "modelfile": "m.pth", "architecture": "three_conv", "pretrained": "w.pth",
    "imbalance": "smote", "smote_target": "auto", "validation": 0, "epochs": 3, "batch_size": 1,
    "learning_rate": 0.25, "latent_dim": 8, "clusters": 9,
}  # fmt: skip


@pytest.mark.parametrize("section", CONTRACT)
def test_every_setting_is_a_flag(section):
    names = list(SHARED | CONTRACT[section])
    flags = [text for name in names for text in (f"--{name}", OTHER_VALUES[name])]
    assert of(read(section, *flags), names) == {name: OTHER_VALUES[name] for name in names}


@pytest.mark.parametrize("section", settings.SECTIONS)
def test_every_default_passes_its_own_check_and_has_a_help_line(section):
    for setting in (settings.SHARED_SETTINGS | settings.SECTIONS[section]).values():
        assert setting.accepts(setting.default) and setting.help and setting.meant


@pytest.mark.parametrize("script", PART1)
def test_help_lists_every_setting_with_its_default(run, script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    result = run(script, "--help")
    assert (result.status, result.err) == (0, "")
    text = " ".join(result.out.split())
    for name, setting in (settings.SHARED_SETTINGS | settings.SECTIONS["classifier"]).items():
        assert f"--{name} VALUE {setting.help} (default: {json.dumps(setting.default)})" in text
    assert "--config" in result.out


def test_true_and_false_as_flags_are_no_paths():
    assert read("classifier", "--pretrained", "true").pretrained is True
    assert read("classifier", "--pretrained", "false").pretrained is False
    assert read("classifier", "--pretrained", "1").pretrained == "1"


@pytest.mark.parametrize(
    "content, parts",
    [
        ({"classifier": {"epoch": 3}}, ['classifier: unknown key "epoch"; did you mean "epochs"?']),
        ({"sed": 3}, ['unknown key "sed"; did you mean "seed"?']),
        ({"clasifier": {}}, ['unknown key "clasifier"; did you mean "classifier"?']),
        ({"zzzz": 3}, ['unknown key "zzzz"', "image_size"]),
        ({"autoencoder": {"smote_target": 3}}, ['autoencoder: unknown key "smote_target"']),
        ({"classifier": {"epochs": "3"}}, ['classifier: epochs: found "3"', "whole number from 1 to"]),
        ({"classifier": {"epochs": 3.0}}, ["classifier: epochs: found 3.0", "whole number"]),
        ({"classifier": {"epochs": True}}, ["classifier: epochs: found true", "whole number"]),
        ({"classifier": {"epochs": None}}, ["classifier: epochs: found null", "whole number"]),
        ({"classifier": {"epochs": 0}}, ["classifier: epochs: found 0", "from 1 to"]),
        ({"classifier": {"batch_size": -1}}, ["classifier: batch_size: found -1", "from 1 to"]),
        ({"classifier": {"validation": 0.95}}, ["classifier: validation: found 0.95", "from 0.0 to 0.9"]),
        ({"classifier": {"validation": False}}, ["classifier: validation: found false", "a number"]),
        ({"classifier": {"learning_rate": 0}}, ["classifier: learning_rate: found 0", "a number from"]),
        ({"classifier": {"imbalance": "smoke"}}, ['imbalance: found "smoke"', '"none"', '"weighted_sampler"']),
        ({"classifier": {"smote_target": "all"}}, ['smote_target: found "all"', 'or "auto"']),
        ({"classifier": {"pretrained": 1}}, ["pretrained: found 1", "true, false or a path"]),
        ({"classifier": {"modelfile": ""}}, ['modelfile: found ""', "meant"]),
        ({"autoencoder": {"latent_dim": 0}}, ["autoencoder: latent_dim: found 0", "from 1 to"]),
        ({"autoencoder": {"clusters": "many"}}, ['autoencoder: clusters: found "many"', 'or "auto"']),
        ({"image_size": 8}, ["image_size: found 8", "from 16 to"]),
        ({"image_size": 10**30}, ["image_size: found 1000"]),
        ({"seed": -1}, ["seed: found -1", "from 0 to"]),
        ({"trainingdir": ["a"]}, ['trainingdir: found ["a"]', "a text"]),
        ({"trainingdir": "a\0b"}, ["trainingdir: found", "a text"]),
        ({"classifier": [1]}, ["classifier: found [1]", "object"]),
        ({"classifier": "x" * 5000}, ["classifier: found", "object"]),
        ([], ["found []", "object"]),
        ("3", ["found 3", "object"]),
        ('{"classifier": {"learning_rate": NaN}}', ["classifier: learning_rate: found NaN", "a number"]),
        ('{"classifier": {"learning_rate": 1e999}}', ["classifier: learning_rate: found Infinity", "a number"]),
        ('{"seed": 1, "seed": 2}', ['"seed"', "twice"]),
        ('{"classifier": {"epochs": 1, "epochs": 2}}', ['"epochs"', "twice"]),
        ('{"seed": 1', ["not JSON", "line 1"]),
        ("{'seed': 1}", ["not JSON"]),
        ("", ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ({"trainingdir": "a", "epochs": 3}, ['"epochs" belongs in "classifier" or "autoencoder" now']),
        ({"latent_dim": 3, "imbalance": "none"}, ['"latent_dim" belongs in "autoencoder"', '"imbalance" belongs in']),
    ],
)
def test_a_bad_file_is_one_line_that_names_file_key_found_and_meant(write, workdir, refused, listing, content, parts):
    write(content)
    before = listing(workdir)
    for script in PART1:
        line = refused(script, "--config", "config.json")
        assert line.startswith("config.json: ") and len(line) < 600
        assert all(part in line for part in parts), line
    assert listing(workdir) == before


def test_a_file_that_is_not_utf8_is_one_line(workdir, refused):
    (workdir / "c.json").write_bytes(b'{"trainingdir": "\xff\xfe"}')
    assert refused(trainpart1, "-c", "c.json").startswith("c.json: is not JSON")


def test_a_byte_order_mark_is_passed_over(workdir):
    (workdir / "c.json").write_text('{"seed": 4}', encoding="utf-8-sig")
    assert read("classifier", "-c", "c.json").seed == 4


@pytest.mark.parametrize("path", ["missing.json", "."])
def test_a_settings_file_that_cannot_be_read_is_named(workdir, refused, path):
    line = refused(trainpart1, "-c", path)
    assert line.startswith(f"{path}: cannot be read: ")


@pytest.mark.parametrize(
    "flags, parts",
    [
        (["--epoch", "3"], ['"--epoch"', 'did you mean "--epochs"?']),
        (["--latent_dim", "3"], ['unknown argument "--latent_dim"']),
        (["paintings"], ['unknown argument "paintings"', "--help"]),
        (["--epochs"], ["--epochs", "expected one argument"]),
        (["--epochs", "three"], ['--epochs: found "three"', "whole number from 1 to"]),
        (["--epochs", "-1"], ['--epochs: found "-1"', "whole number from 1 to"]),
        (["--epochs", "2.5"], ['--epochs: found "2.5"', "whole number"]),
        (["--epochs", "9" * 5000], ["--epochs: found", "whole number"]),
        (["--learning_rate", "nan"], ['--learning_rate: found "nan"', "a number from"]),
        (["--learning_rate", "NaN"], ['--learning_rate: found "NaN"', "a number from"]),
        (["--validation", "1"], ['--validation: found "1"', "from 0.0 to 0.9"]),
        (["--imbalance", "Smote"], ['--imbalance: found "Smote"', '"smote"']),
        (["--trainingdir", ""], ['--trainingdir: found ""', "a text"]),
        (["--seed", "1\n2"], [r'--seed: found "1\n2"']),
        (["--fresh=1"], ["--fresh"]),
    ],
)
def test_a_bad_flag_is_one_line_that_names_flag_found_and_meant(workdir, refused, listing, flags, parts):
    line = refused(trainpart1, *flags)
    assert all(part in line for part in parts), line
    assert listing(workdir) == {}


def test_a_flag_is_not_abbreviated(refused, workdir):
    assert "did you mean" in refused(trainpart1, "--learning", "0.1")


def test_an_error_names_the_place_that_the_value_came_from(write, refused):
    write({"trainingdir": "nowhere"})
    assert refused(trainpart1, "-c", "config.json").startswith("config.json: trainingdir: ")
    assert refused(trainpart1, "-c", "config.json", "--trainingdir", "void").startswith("--trainingdir: ")


@pytest.mark.parametrize("device", ["nothing", "cuda:99", "meta", "cpu:x"])
def test_a_device_that_cannot_be_used_is_one_line(workdir, refused, listing, device):
    line = refused(trainpart1, "--device", device)
    assert line.startswith("--device: ") and device in line
    assert listing(workdir) == {}


def test_device_auto_is_cuda_or_else_the_cpu(workdir, capsys):
    assert devices.start(read()).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_batch_that_the_processes_cannot_share_is_one_line(workdir, refused, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    line = refused(trainpart1, "--device", "cpu", "--batch_size", 64)
    assert line.startswith("--batch_size: ") and "64" in line and "3 processes" in line


def test_ctrl_c_ends_with_130_and_one_line(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(settings, "read", interrupted)
    result = run(trainpart1)
    assert result.status == 130 and len(result.err.strip().splitlines()) == 1


def test_what_is_unexpected_is_a_traceback(run, monkeypatch):
    monkeypatch.setattr(settings, "read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(trainpart1)


def test_output_files_lie_in_outputdir_unless_absolute(tmp_path):
    options = read("classifier", "--outputdir", tmp_path / "out")
    assert options.output("a.pth") == tmp_path / "out" / "a.pth"
    assert options.output(str(tmp_path / "b.pth")) == tmp_path / "b.pth"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*SHARED, *CLASSIFIER, *AUTOENCODER, *CONTRACT]) | st.text(max_size=8)


@given(st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=3), max_size=3) | JSON)
@hypothesis_settings(max_examples=150, deadline=None, database=None)
def test_any_json_is_read_or_refused_in_one_line(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    try:
        settings.read_config(path)
    except console.UserError as error:
        assert len(str(error).splitlines()) == 1


@given(st.sampled_from([*SHARED, *CLASSIFIER]), st.text())
@hypothesis_settings(max_examples=150, deadline=None, database=None)
def test_any_flag_is_accepted_or_refused_in_one_line(name, text):
    try:
        value = getattr(read("classifier", f"--{name}={text}"), name)
    except console.UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert (settings.SHARED_SETTINGS | settings.SECTIONS["classifier"])[name].accepts(value)
