"""The core declares the settings of the models; what is written by hand is compared with that declaration."""

import importlib.util
import inspect
from pathlib import Path

import pytest

import evenflow as ef
from evenflow.models import DECLARED, MODELS, config_of

DOCS = Path(__file__).parents[2] / "docs"
SHAPES = {"image": (4, 4, 2), "table": 3}
SMALL = {"levels": 1, "steps": 1, "couplings": 2, "scales": 1, "base_dim": 2, "residual_blocks": 0}

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
    for name, default in arguments.items():
        known = [settings[name] for settings in kinds if name in settings]
        if default is None:  # it stands for the default of the kind
            assert model == "RealNVP" or len(known) < len(kinds), name
        else:
            assert all((default, type(default)) == (as_argument(s), type(as_argument(s))) for s in known), name


@each_kind
def test_defaults_are_the_declared_ones(model, kind):
    config = config_of(model, {**arguments_of(model), "shape": SHAPES[kind]})
    kept = [s for s in DECLARED[model, kind] if not s.optional and not s.laws]
    assert list(config) == ["model", *(s.name for s in kept)]
    assert all(config[s.name] == s.default for s in kept if s.name != "shape")
    if model == "RealNVP":  # whose signature says None
        text = " ".join(ef.RealNVP.__doc__.split())
        assert all(f"{s.name}={as_argument(s)!r}".replace("'", '"') in text for s in kept
                   if s.name not in ("shape", "coupling", "conditioner_dtype", "seed", "dtype"))


@each_kind
def test_limits_and_choices(model, kind):
    def make(setting=None, value=None):
        small = {"hidden": 4 if model == "Glow" else (4,), **SMALL}
        settings = {s.name: small[s.name] for s in DECLARED[model, kind] if s.name in small}
        if setting is not None:
            if setting.laws:
                settings["coupling"] = setting.laws[0]
            settings[setting.name] = (value,) if setting.type == "ints" else value
        if settings.get("conditioner_dtype") == "float64":
            settings["dtype"] = "float64"
        return MODELS[model](SHAPES[kind], **settings)

    for setting in DECLARED[model, kind]:
        open_at_low = setting.low is None or setting.name == "bound"
        for value in setting.choices or ([] if open_at_low else [setting.low]):
            got = make(setting, value).config.get(setting.name, 0)
            assert got == ([value] if setting.type == "ints" else value)
        if setting.type not in ("shape", "bounds"):
            below = [] if setting.low is None else [setting.low - 1]
            above = [] if setting.high is None else [setting.high + 1]
            for value in ([1], "x", *below, *above):
                with pytest.raises((TypeError, ef.ConfigError), match=f"{model}.*{setting.name}"):
                    make(setting, value)


def test_the_documentation_has_every_setting():
    spec = importlib.util.spec_from_file_location("hook", DOCS / "hooks" / "settings.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = hook.on_page_markdown((DOCS / "api" / "models.md").read_text())
    assert page.count("\n| `") == sum(map(len, DECLARED.values()))
    assert "| `hidden` | `(64, 64)` | 1 ... 1048576 | widths of the nets' hidden layers |\n" in page
    assert "| `mask` | `'halves'` | `'halves'`, `'odd-even'` | columns that a coupling changes |\n" in page
