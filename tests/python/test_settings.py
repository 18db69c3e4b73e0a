"""The core declares the settings of the models; what is written by hand is compared with that declaration."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from raised import raises

import evenflow as ef
from evenflow._border.names import ELSEWHERE
from evenflow.models import DECLARED, MODELS, config_of

DOCS = Path(__file__).parents[2] / "docs"
SHAPES = {"image": (4, 4, 2), "table": 3}
SMALL = {"levels": 1, "steps": 1, "couplings": 2, "base_dim": 2, "residual_blocks": 0}

each_kind = pytest.mark.parametrize("model, kind", DECLARED)


def arguments_of(model):
    """Names and defaults in a constructor's signature, but where the model runs."""
    parameters = inspect.signature(MODELS[model]).parameters
    return {name: p.default for name, p in parameters.items() if name not in ("device", "threads")}


def as_argument(setting):
    return tuple(setting.default) if setting.type == "ints" else setting.default


@pytest.mark.parametrize("model", MODELS)
def test_a_signature_has_the_declared_names_and_defaults(model):
    kinds = [{s.name: s for s in settings} for (owner, _), settings in DECLARED.items() if owner == model]
    arguments = arguments_of(model)
    assert set(arguments) == {name for settings in kinds for name in settings}
    assert arguments.pop("shape") is inspect.Parameter.empty
    if model == "RealNVP":  # by the context
        assert arguments.pop("batch_norm") == "auto"
    for name, default in arguments.items():
        known = [as_argument(settings[name]) for settings in kinds if name in settings]
        assert all((default, type(default)) == (declared, type(declared)) for declared in known), name


@pytest.mark.parametrize("model", MODELS)
def test_a_signature_names_all_but_the_shape(model):
    first, *others = inspect.signature(MODELS[model]).parameters.values()
    assert (first.name, first.kind) == ("shape", first.POSITIONAL_OR_KEYWORD)
    assert {p.kind for p in others} == {first.KEYWORD_ONLY}
    assert [p.name for p in others][-2:] == ["device", "threads"]
    assert all(p.default is not None or p.name == "bounds" for p in others)
    text = inspect.getdoc(MODELS[model])  # indented alike in every Python
    assert all(re.search(rf"\n([a-z_]+, )*{p.name}(, [a-z_]+)*( : |\n)", text) for p in (first, *others))


@pytest.mark.parametrize("context, wanted", [(0, True), (2, False)])
def test_batch_norm_of_real_nvp_is_by_the_context(context, wanted):
    def made(**settings):
        return ef.RealNVP((4, 4, 1), levels=1, base_dim=2, residual_blocks=0, context=context, **settings).config

    assert made()["batch_norm"] is made(batch_norm="auto")["batch_norm"] is wanted
    assert made(batch_norm=not wanted)["batch_norm"] is not wanted
    with raises(TypeError, argument="batch_norm"):
        made(batch_norm="yes")


def test_settings_of_the_other_kind_of_data():
    """They may be given as they are by default, so that a program needn't tell the kinds apart."""
    assert "bits" not in ef.NICE(4, couplings=1, hidden=(2,), bits=8).config
    assert "bounds" not in ef.NICE((2, 2, 1), couplings=1, hidden=(2,), bounds=None).config
    for shape, given in ((4, dict(bits=7)), ((2, 2, 1), dict(bounds=[(0, 1)] * 4))):
        with pytest.raises(ef.ConfigError):
            ef.NICE(shape, **given)


@each_kind
def test_defaults_are_the_declared_ones(model, kind):
    arguments = {**arguments_of(model), "shape": SHAPES[kind]}
    if model == "RealNVP":
        arguments["batch_norm"] = True
    config = config_of(model, arguments)
    kept = [s for s in DECLARED[model, kind] if not s.optional and (not s.laws or config["law"] in s.laws)]
    assert [name for name in config if name != "net"] == ["model", *(s.name for s in kept)]
    assert all(config[s.name] == s.default for s in kept if s.name != "shape")


@each_kind
def test_limits_and_choices(model, kind):
    def make(setting=None, value=None):
        small = {"hidden": 4 if model == "Glow" else (4,), **SMALL}
        settings = {s.name: small[s.name] for s in DECLARED[model, kind] if s.name in small}
        if setting is not None:
            if setting.laws:
                settings["law"] = setting.laws[0]
            settings[setting.name] = (value,) if setting.type == "ints" else value
        if settings.get("conditioner_dtype") == "float64":
            settings["dtype"] = "float64"
        if settings.get("base") == "uniform":
            settings |= {"law": "spline", "preprocess": "none"}
        return MODELS[model](SHAPES[kind], **settings)

    for setting in DECLARED[model, kind]:
        open_at_low = setting.low is None or setting.name == "bound"
        for value in setting.choices or ([] if open_at_low else [setting.low]):
            config = make(setting, value).config
            if setting.left_out(value):
                assert setting.name not in config
                continue
            got = config[setting.name]
            if setting.name == "conditioner_dtype" and value == "float64":
                value = "float32"  # which stands for the model's
            if value == "auto":  # what it stands for is in `choices`, too
                assert got != value and got in setting.choices
                continue
            assert got == ([value] if setting.type == "ints" else value)
        if setting.type not in ("shape", "bounds"):
            below = [] if setting.low is None else [setting.low - 1]
            above = [] if setting.high is None else [setting.high + 1]
            for value in ([1], "x", *below, *above):
                with pytest.raises((TypeError, ef.ConfigError)):
                    make(setting, value)


def test_the_documentation_has_every_setting():
    spec = importlib.util.spec_from_file_location("hook", DOCS / "hooks" / "settings.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = hook.on_page_markdown("".join(path.read_text() for path in (DOCS / "api").glob("*.md")))
    assert page.count("\n    | `") == sum(map(len, DECLARED.values()))
    assert "| `hidden` | `(64, 64)` | 1 ... 1048576 | widths of the nets' hidden layers |\n" in page
    assert ("| `mask` | `'halves'` | `'halves'`, `'odd-even'`, `'log2'` | columns that couplings change, by a scheme or "
            "listed for each |\n") in page


def test_names_of_other_libraries_are_not_ours():
    calls = [*MODELS.values(), ef.Adam, ef.AdamW, ef.Adamax, ef.SGD, ef.RMSProp, ef.MovingAverage, ef.Schedule,
             ef.Flow.fit, ef.Flow.train_step]
    known = [set(inspect.signature(call).parameters) for call in calls]
    assert all(sum(name in ours for name in names) <= 1 for names in known for ours in ELSEWHERE.values())
    assert {name for ours in ELSEWHERE.values() for name in ours} <= set.union(*known)
    for call, names in zip(calls, known):  # a name of ours stands for no other of the same call
        assert not [name for name in set(ELSEWHERE) & names if set(ELSEWHERE[name]) & names], call
