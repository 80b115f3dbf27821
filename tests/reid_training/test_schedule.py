"""The learning rate of every step; the progress bar and curves, which change no number."""

from __future__ import annotations

import dataclasses
import io
import sys

import numpy as np
import pytest

from reid_training import train as training
from reid_training.config import RunConfig, ScheduleConfig, from_dict
from reid_training.data import market1501
from reid_training.errors import ConfigError
from reid_training.runs import event_log, load_checkpoint, new_method
from reid_training.train import learning_rate, parameter_groups, train
from tests.oracles.training_runs import same_runs
from tracker.settings import to_dict


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def with_schedule(config: RunConfig, **settings) -> RunConfig:
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, **settings))


def slow_step_rates(peak, epochs, warmup_epochs, milestones, gamma, steps_per_epoch):
    """Epoch by epoch: climb in equal stairs, then hold, and multiply when a milestone's epochs are done."""
    rates, rate = [], peak
    for epoch in range(epochs):
        if epoch in milestones:
            rate *= gamma
        for step in range(steps_per_epoch):
            if epoch < warmup_epochs:
                rates.append(peak / (warmup_epochs * steps_per_epoch) * (epoch * steps_per_epoch + step + 1))
            else:
                rates.append(rate)
    return rates


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
@pytest.mark.parametrize(
    ("epochs", "warmup_epochs", "milestones", "gamma"),
    [
        (10, 0, [4], 0.1),
        (10, 2, [4, 7], 0.1),
        (10, 3, [3, 4, 9], 0.5),  # the first drop right after the warm-up, two in a row, one before the last epoch
        (2, 1, [1], 0.3),
    ],
)
def test_step_rates_agree_with_epoch_by_epoch(epochs, warmup_epochs, milestones, gamma, steps_per_epoch):
    schedule = ScheduleConfig(
        epochs=epochs, warmup_epochs=warmup_epochs, decay="step", milestones=tuple(milestones), gamma=gamma
    )
    fast = [learning_rate(step, steps_per_epoch, schedule) for step in range(epochs * steps_per_epoch)]
    slow = slow_step_rates(schedule.learning_rate, epochs, warmup_epochs, milestones, gamma, steps_per_epoch)
    assert fast == pytest.approx(slow, rel=1e-12)


def test_both_schedules_share_the_warm_up():
    cosine = ScheduleConfig(epochs=9, warmup_epochs=3)
    step = dataclasses.replace(cosine, decay="step", milestones=(5,))
    assert [learning_rate(i, 4, cosine) for i in range(12)] == [learning_rate(i, 4, step) for i in range(12)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"decay": "linear"}, "schedule.decay must be one of cosine, step, got 'linear'"),
        ({"decay": "step"}, "schedule.milestones is empty"),
        ({"decay": "step", "milestones": 40}, "milestones must be a list, got 40"),
        ({"decay": "step", "milestones": [40.5]}, "milestones must be a whole number, got 40.5"),
        ({"decay": "step", "milestones": [70, 40]}, r"milestones must ascend, got \(70, 40\)"),
        ({"decay": "step", "milestones": [40, 40]}, "milestones must ascend"),
        ({"decay": "step", "milestones": [4, 40]}, r"milestones must be in .* = \[5, 99\], got \(4, 40\)"),
        ({"decay": "step", "milestones": [40, 100]}, r"= \[5, 99\], got \(40, 100\)"),
        ({"decay": "step", "milestones": [0], "warmup_epochs": 0}, r"= \[1, 99\], got \(0,\)"),
        ({"decay": "step", "milestones": [40], "gamma": 1.0}, r"gamma must be in \(0, 1\), got 1.0"),
        ({"decay": "step", "milestones": [40], "gamma": 0}, "gamma must be in"),
        ({"milestones": [40]}, "schedule.milestones has no meaning for cosine"),
        ({"gamma": 0.5}, "schedule.gamma has no meaning for cosine"),
    ],
)
def test_bad_schedules_are_named(table, message):
    with pytest.raises(ConfigError, match=message):
        from_dict({"schedule": table})


def test_config_without_schedule_kind_means_cosine(tiny):
    table = to_dict(tiny)
    for key in ("decay", "milestones", "gamma"):
        del table["schedule"][key]
    assert from_dict(table) == tiny


@pytest.mark.slow
@pytest.mark.parametrize("killed_in_epoch", [2, 3])
def test_resumed_run_keeps_its_learning_rate_steps(tmp_path, market, tiny, monkeypatch, killed_in_epoch):
    config = with_schedule(tiny, decay="step", milestones=(2, 3), gamma=0.25)
    data = market1501.read(market)
    train(config, data, tmp_path / "whole")
    die_in_epoch(killed_in_epoch, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "cut")
    monkeypatch.undo()
    train(config, data, tmp_path / "cut", resume=True)

    peak = config.schedule.learning_rate
    whole, cut = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "cut")
    for state in (whole, cut):
        assert [row["learning_rate"] for row in state["history"]] == pytest.approx([peak, peak, peak / 4, peak / 16])
    assert same_runs(tmp_path / "whole", tmp_path / "cut")


def die_in_epoch(epoch, monkeypatch):
    """Ctrl-C at the first step of that epoch."""
    real = training.learning_rate

    def die(step, steps_per_epoch, schedule):
        if step == (epoch - 1) * steps_per_epoch:
            raise KeyboardInterrupt
        return real(step, steps_per_epoch, schedule)

    monkeypatch.setattr(training, "learning_rate", die)


def test_progress_bar_is_shown_on_terminals_only(tmp_path, market, tiny, monkeypatch):
    config, data = with_schedule(tiny, epochs=2), market1501.read(market)
    terminal, pipe = Terminal(), io.StringIO()
    for stream, name in ((terminal, "terminal"), (pipe, "pipe")):
        monkeypatch.setattr(sys, "stderr", stream)
        train(config, data, tmp_path / name)
    assert "epoch 1/2" in terminal.getvalue()
    assert "epoch 2/2" in terminal.getvalue()
    assert pipe.getvalue() == ""
    assert same_runs(tmp_path / "terminal", tmp_path / "pipe")


def test_log_explains_its_columns_and_has_the_time_left(tmp_path, market, tiny, caplog):
    with caplog.at_level("INFO", "reid_training"):
        (row,) = train(with_schedule(tiny, epochs=1), market1501.read(market), tmp_path)
    _, legend, last = caplog.messages
    for key in row.keys() - {"epoch", "triplet", "id", "id_accuracy"}:
        assert key in legend
    assert last.startswith("epoch 1  learning_rate ")
    assert last.endswith("  left 00:00")


def test_epoch_without_a_terminal_gets_a_line_now_and_then(monkeypatch, caplog):
    """Ten batches of 12 s: at 36, 72 and 108 s, the first times that are 30 s after the line before."""
    now = [100.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    with caplog.at_level("INFO", "reid_training"):
        for _ in training.announced(range(10), "epoch 1/3"):
            now[0] += 12.0
    assert caplog.messages == [
        "epoch 1/3: batch 3 of 10, 01:24 left",
        "epoch 1/3: batch 6 of 10, 00:48 left",
        "epoch 1/3: batch 9 of 10, 00:12 left",
    ]


def test_progress_bar_is_cleared_before_the_interrupt_message(tmp_path, market, tiny, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    die_in_epoch(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt) as caught:  # holds the frames, as an except clause of the caller does
        train(tiny, market1501.read(market), tmp_path)
    assert "epoch 1/4" in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-1].strip() == ""
    del caught


def test_training_needs_no_tensorboard(tmp_path, market, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "reid_training.event_log", None)
    train(with_schedule(tiny, epochs=1), market1501.read(market), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "last.pt", "metrics.csv"]


def read_points(folder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads in the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), purge_orphaned_data=False).Reload()
    return {key: [(event.step, event.value) for event in found.Scalars(key)] for key in found.Tags()["scalars"]}


def test_every_epoch_number_becomes_a_curve_point(tmp_path):
    pytest.importorskip("tensorboard")
    ours, other = tmp_path / "events.out.tfevents.1.a.reid", tmp_path / "events.out.tfevents.1.a"
    for path in (ours, other):
        path.write_bytes(b"")
    rows = [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0, "held_out_map": 0.5}]
    (events,) = event_log(tmp_path, rows[:1])
    assert read_points(tmp_path) == {"loss": [(1, 3.0)]}, "there before the next row"
    events.on_epoch(rows[-1])
    assert read_points(tmp_path) == {"loss": [(1, 3.0), (2, 2.0)], "held_out_map": [(2, 0.5)]}
    assert not ours.exists()
    assert other.exists(), "the event file of another program stays"


def test_removed_curves_are_written_again(tmp_path):
    pytest.importorskip("tensorboard")
    rows = [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}]
    (events,) = event_log(tmp_path, rows[:1])
    events.path.unlink()
    events.on_epoch(rows[-1])
    assert read_points(tmp_path) == {"loss": [(1, 3.0), (2, 2.0)]}


def test_curves_equal_those_of_torch(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    rng = np.random.default_rng(0)
    rows = [{"epoch": epoch, "loss": float(rng.normal()), "a b": float(rng.normal())} for epoch in range(1, 6)]
    (events,) = event_log(tmp_path / "ours", rows[:2])
    writer = SummaryWriter(tmp_path / "torch", purge_step=1)
    for n, row in enumerate(rows, start=1):
        if n > 2:
            events.on_epoch(row)
        for key in ("loss", "a b"):
            writer.add_scalar(key, row[key], row["epoch"])
    writer.close()
    assert read_points(tmp_path / "ours") == read_points(tmp_path / "torch")


@pytest.mark.slow
@pytest.mark.parametrize("first_half", ["with", "without"])
def test_resumed_run_continues_its_curves(tmp_path, market, tiny, monkeypatch, first_half):
    pytest.importorskip("tensorboard")
    data = market1501.read(market)
    # Killed in the fourth epoch, the last checkpoint after the second: the third is done twice.
    config = with_schedule(tiny, checkpoint_every=2)
    die_in_epoch(4, monkeypatch)
    if first_half == "without":
        monkeypatch.setitem(sys.modules, "reid_training.event_log", None)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path)
    assert len(list(tmp_path.glob("events*"))) == (first_half == "with")
    monkeypatch.undo()
    history = train(config, data, tmp_path, resume=True)

    assert len(list(tmp_path.glob("events*"))) == 1
    found = read_points(tmp_path)
    assert set(found) == {key for row in history for key in row} - {"epoch"}
    for key, points in found.items():
        expected = [(row["epoch"], row[key]) for row in history if key in row]
        assert [step for step, _ in points] == [step for step, _ in expected]
        assert [value for _, value in points] == pytest.approx([value for _, value in expected], rel=1e-6)  # float32


# Callbacks


class Told:
    def __init__(self, fails_at=None):
        self.rows, self.n_ends, self.fails_at = [], 0, fails_at

    def on_epoch(self, row):
        self.rows.append(row)
        if row["epoch"] == self.fails_at:
            raise ValueError("of the user")

    def on_end(self):
        self.n_ends += 1


@pytest.mark.slow
def test_callbacks_are_told_every_epoch_and_the_end(tmp_path, market, tiny):
    first, second = Told(), Told()
    history = train(tiny, market1501.read(market), tmp_path, callbacks=[first, second])
    assert first.rows == second.rows == history
    assert (first.n_ends, second.n_ends) == (1, 1)


@pytest.mark.slow
def test_failing_callback_ends_the_run_and_loses_no_epoch(tmp_path, market, tiny):
    data, config = market1501.read(market), with_schedule(tiny, checkpoint_every=4)
    told = [Told(fails_at=2), Told()]
    with pytest.raises(ValueError, match="of the user"):
        train(config, data, tmp_path, callbacks=told)
    assert len(load_checkpoint(tmp_path)["history"]) == 2
    assert [one.n_ends for one in told] == [1, 1]
    resumed = Told()
    history = train(config, data, tmp_path, resume=True, callbacks=[resumed])
    assert resumed.rows == history[2:]


@pytest.mark.slow
def test_callbacks_of_an_ensemble_are_told_all_members(tmp_path, market, tiny):
    told = Told()
    config = dataclasses.replace(
        with_schedule(tiny, epochs=1), method={"name": "dreml", "members": 2, "meta_classes": 3}
    )
    assert train(config, market1501.read(market), tmp_path, callbacks=[told]) == told.rows
    assert ([row["member"] for row in told.rows], told.n_ends) == ([0, 1], 1)


# Rates of groups


@pytest.mark.parametrize("method", ["siamese", "hdml", "bier", "abe", "dreml"])
@pytest.mark.parametrize("body_rate", [1.0, 0.1])
def test_body_rate_slows_the_body_alone(tiny, method, body_rate):
    trained = new_method(dataclasses.replace(tiny, method={"name": method}), 12, start=True)
    groups = parameter_groups(trained, 0.05, body_rate)
    rates = {id(parameter): group["rate"] for group in groups for parameter in group["params"]}
    own = trained.rates()
    names = {id(parameter): name for name, parameter in trained.named_parameters()}
    for group, parameters in trained.groups().items():
        for parameter in (p for p in parameters if p.requires_grad):
            is_body = ".body." in names[id(parameter)]
            assert rates[id(parameter)] == pytest.approx(own.get(group, 1.0) * (body_rate if is_body else 1.0))
    assert sum(len(group["params"]) for group in groups) == len(rates)
