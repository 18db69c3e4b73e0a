"""Flows inside other packages, which must be installed."""

import importlib
import logging
import math
import pickle

import numpy as np
import pytest

import evenflow as ef

torch = pytest.importorskip("torch")
LOG_2PI = np.log(2 * np.pi)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def client(name):
    """A fixture: the module of that name."""
    @pytest.fixture(name=name)
    def module():
        pytest.importorskip(name)
        return importlib.import_module(f"evenflow.clients.{name}")
    return module


nessai, sbi, aspire, pocomc = map(client, ("nessai", "sbi", "aspire", "pocomc"))


@pytest.fixture
def nessai_model(nessai, tmp_path, one_thread):
    """A model of nessai's, with settings over its defaults."""
    def make(columns=3, training=None, **settings):
        model = nessai.EvenflowModel(flow_config={"n_inputs": columns, **settings}, training_config=training or {},
                                     output=str(tmp_path), rng=np.random.default_rng(0))
        model.initialise()
        return model
    return make


def test_nessai_settings(nessai):
    from nessai.flowmodel.utils import update_flow_config
    settings = nessai.settings_of(update_flow_config({"n_inputs": 4}))
    assert settings["hidden"] == (8, 8) and settings["couplings"] == 4 and settings["net"] == "residual"
    assert settings["law"] == "sigmoid" and settings["permutation"] == "lu-shuffle" and settings["batch_norm"]
    spline = nessai.settings_of(update_flow_config({"n_inputs": 4, "ftype": "NSF", "num_bins": 6, "net": "mlp"}))
    assert spline["law"] == "spline" and spline["bins"] == 6 and spline["bound"] == 5 and not spline["batch_norm"]
    mask = nessai.settings_of(update_flow_config({"n_inputs": 2, "mask": [1, -1], "n_blocks": 3}))["mask"]
    assert mask.tolist() == [[True, False], [False, True], [True, False]]


@pytest.mark.parametrize("columns, settings", [(3, {}), (1, {}), (2, {"ftype": "nsf", "batch_norm_between_layers": True}),
                                               (2, {"context_features": 2})])
def test_nessai_trains_and_comes_back(nessai_model, columns, settings, tmp_path):
    rng = np.random.default_rng(1)
    given = rng.normal(size=(600, 2)) if "context_features" in settings else None
    x = 0.3 * rng.normal(size=(600, columns)) + (0 if given is None else given[:, :1])
    model = nessai_model(columns, {"max_epochs": 30, "batch_size": 100}, **settings)
    before = model.log_prob(x, given)
    history = model.train(x, conditional=given, plot=False)
    assert len(history["loss"]) == len(history["val_loss"]) and model.log_prob(x, given).mean() > before.mean()
    z, log_prob = model.forward_and_log_prob(x[:50], None if given is None else given[:50])
    again, score = model.sample_and_log_prob(z=z, conditional=None if given is None else given[:50])
    np.testing.assert_allclose(again, x[:50], atol=1e-4)
    np.testing.assert_allclose(score, log_prob, atol=1e-3)
    assert model.sample(7, None if given is None else given[:7]).shape == (7, columns)
    assert {values.dtype for values in (z, log_prob, again, score)} == {np.dtype(float)}
    other = pickle.loads(pickle.dumps(model))
    other.flow_config = model.flow_config
    other.reload_weights(str(tmp_path / "model.pt"))
    np.testing.assert_array_equal(other.log_prob(x, given), model.log_prob(x, given))
    with pytest.raises(ef.ConfigError):
        nessai_model(columns, n_blocks=5, **settings).load_weights(str(tmp_path / "model.pt"))
    other.reset_model()
    assert not np.array_equal(other.log_prob(x, given), model.log_prob(x, given))


def test_nessai_weights_count(nessai_model):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(-2, 0.5, (500, 2)), rng.normal(2, 0.5, (500, 2))])
    model = nessai_model(2, {"max_epochs": 60, "batch_size": 200, "lr": 1e-2}, batch_norm_between_layers=False)
    model.train(x, weights=np.repeat([1.0, 1e-6], 500), plot=False)
    assert (model.sample(500)[:, 0] < 0).mean() > 0.95


def test_nessai_finds_an_evidence(nessai, tmp_path, one_thread):
    from nessai.flowsampler import FlowSampler
    from nessai.model import Model

    class Gauss(Model):
        names = ["a", "b"]
        bounds = {"a": [-10, 10], "b": [-10, 10]}

        def log_prior(self, x):
            return np.log(self.in_bounds(x), dtype=float) - 2 * np.log(20)

        def log_likelihood(self, x):
            return -0.5 * (x["a"]**2 + x["b"]**2) - LOG_2PI

    logging.getLogger("nessai").setLevel(logging.ERROR)
    sampler = FlowSampler(Gauss(), output=str(tmp_path), nlive=300, seed=3, plot=False, resume=True,
                          signal_handling=False, flow_proposal_class=nessai.EvenflowProposal)
    sampler.run(save=False, plot=False)
    assert abs(sampler.ns.log_evidence + 2 * np.log(20)) < 0.5
    assert sampler.ns.proposal.training_count > 0
    again = FlowSampler(Gauss(), output=str(tmp_path), nlive=300, seed=3, plot=False, resume=True,
                        signal_handling=False, flow_proposal_class=nessai.EvenflowProposal)
    assert again.ns.iteration > 0


@pytest.fixture
def simulations(one_thread, tmp_path, monkeypatch):
    from sbi.utils import BoxUniform
    monkeypatch.chdir(tmp_path)  # where sbi writes its logs
    torch.manual_seed(0)
    prior = BoxUniform(-torch.ones(2), torch.ones(2))
    theta = prior.sample((1000,))
    return prior, theta, torch.cat([theta + 0.1 * torch.randn(1000, 2), torch.randn(1000, 1)], 1)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["NPE", "NLE"])
def test_sbi_finds_a_posterior(sbi, simulations, native, kind):
    from sbi import inference
    prior, theta, x = simulations
    trainer = getattr(inference, kind)(prior, density_estimator=sbi.density_estimator(likelihood=kind == "NLE", hidden=(20,)),
                                       show_progress_bars=False).append_simulations(theta, x)
    options = {"max_num_epochs": 20, "training_batch_size": 50, "learning_rate": 2e-3}
    with pytest.warns(UserWarning, match="Maximum number of epochs"):
        estimator = sbi.train(trainer, **options) if native else trainer.train(**options)
    losses = trainer.summary["validation_loss"]
    assert len(losses) == 21 and losses[-1] < losses[0] - 1
    assert estimator.log_prob(theta[:5] if kind == "NPE" else x[:5], x[:5] if kind == "NPE" else theta[:5]).shape == (1, 5)
    if kind == "NPE":
        posterior = trainer.build_posterior()
        at = torch.tensor([[0.3, -0.2, 0.0]])
        draws = posterior.sample((1000,), x=at, show_progress_bars=False)
        assert abs(draws.mean(0) - at[0, :2]).max() < 0.1 and draws.std(0).max() < 0.3
        samples, log_prob = estimator.sample_and_log_prob((4,), x[:3])
        assert samples.shape == (4, 3, 2)
        torch.testing.assert_close(log_prob, estimator.log_prob(samples, x[:3]), atol=1e-3, rtol=0)
        assert estimator.log_prob(theta[:0], x[:0]).shape == (1, 0)
        assert estimator.sample((4,), x[:0]).shape == (4, 0, 2)
        with pytest.raises(ef.ConfigError):
            ef.convert(posterior)
        again = pickle.loads(pickle.dumps(estimator))
        torch.testing.assert_close(again.log_prob(samples, x[:3]), estimator.log_prob(samples, x[:3]))


def test_sbi_trains_an_embedding_net_its_own_way(sbi, simulations):
    from sbi.inference import NPE
    prior, theta, x = simulations
    net = torch.nn.Linear(3, 2)
    before = net.weight.detach().clone()
    trainer = NPE(prior, density_estimator=sbi.density_estimator(net, hidden=(20,)), show_progress_bars=False)
    with pytest.warns(UserWarning, match="Maximum number of epochs"):
        estimator = sbi.train(trainer.append_simulations(theta, x), max_num_epochs=1)
    assert estimator.flow.context == 2 and not torch.equal(estimator.embedding_net.weight, before)


def test_aspire_flow(aspire, tmp_path):
    h5py = pytest.importorskip("h5py")
    x = np.random.default_rng(0).normal([1, 2], [3, 0.1], (600, 2))
    flow = aspire.EvenflowFlow(2, dtype=np.float32, bounds=[(None, 100.0), None], couplings=4, net="residual",
                               hidden=(16,), threads=1)
    for wrong in ({"patience": 3, "validation_fraction": 0.0}, {"validation_fraction": -0.1}, {"validation_fraction": 1}):
        with pytest.raises(ef.ConfigError):
            flow.fit(x, **wrong)
    history = flow.fit(x, n_epochs=40, lr=3e-3, batch_size=100, patience=20, lr_annealing=True)
    assert len(history.training_loss) == len(history.validation_loss)
    samples, log_prob = flow.sample_and_log_prob(2000)
    np.testing.assert_allclose(flow.log_prob(samples), log_prob, atol=1e-3)
    np.testing.assert_allclose((samples.mean(0) - [1, 2]) / [3, 0.1], 0, atol=0.15)  # 600 rows have 0.04
    z, logdet = flow.forward(samples[:20])
    again, back = flow.inverse(z)
    np.testing.assert_allclose(again, samples[:20], atol=1e-3)
    np.testing.assert_allclose(back, -logdet, atol=1e-3)
    assert flow.log_prob(np.array([[np.inf, 0.0], [1.0, 2.0]]))[0] == -np.inf
    with h5py.File(tmp_path / "flow.h5", "w") as file:
        flow.save(file)
    with h5py.File(tmp_path / "flow.h5") as file:
        same = aspire.EvenflowFlow.load(file)
    np.testing.assert_array_equal(same.log_prob(samples), flow.log_prob(samples))
    same.fit(x, n_epochs=1, sample_weight=np.ones(600))
    assert not np.array_equal(same.log_prob(samples), flow.log_prob(samples))


def test_pocomc_flow(pocomc, one_thread):
    dill = pytest.importorskip("dill")
    torch.manual_seed(1)
    x = torch.randn(600, 2) * torch.tensor([0.5, 2.0])
    x[-50:] = x[:50]  # as of particles that did not move
    flow = pocomc.Flow(2, couplings=4, hidden=(16,), base="logistic")
    history = flow.fit(x, weights=torch.rand(600), validation_split=0.5, epochs=40, batch_size=100, patience=10,
                       learning_rate=3e-3, annealing=False)
    assert len(history["loss"]) == len(history["val_loss"])
    assert flow.fit(torch.cat([x, torch.full((1, 2), math.inf)]), epochs=2, annealing=False)["val_loss"] == []
    u, logdet = flow.forward(x)
    again, back = flow.inverse(u)
    torch.testing.assert_close(again, x.double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(back, -logdet, atol=1e-3, rtol=0)
    samples, log_prob = flow.sample(2000)
    torch.testing.assert_close(flow.log_prob(samples), log_prob, atol=1e-3, rtol=0)
    assert abs(samples.std(0) - torch.tensor([0.5, 2.0])).max() < 0.3
    same = dill.loads(dill.dumps(flow))
    torch.testing.assert_close(same.log_prob(samples), flow.log_prob(samples))
    with pytest.raises(ef.ConfigError):
        flow.fit(x, noise=0.1)
