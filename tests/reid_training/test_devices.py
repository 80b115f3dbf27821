"""Several torchrun processes against one process that averages by hand; half precision; freed memory."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reid_training.config import from_dict
from reid_training.data import market1501
from reid_training.data.base import read_images, split_identities
from reid_training.data.samplers import pk_batches
from reid_training.data.transforms import augment
from reid_training.devices import Worker, find_device
from reid_training.errors import ConfigError
from reid_training.runs import load_checkpoint, new_method
from reid_training.train import learning_rate, parameter_groups, train, update_average
from tracker.settings import to_toml

CPU = torch.device("cpu")


def test_workers_get_equal_disjoint_shares():
    for n_batches in (1, 2, 7, 12):
        for n in (1, 2, 3):
            shares = [Worker(rank, n, CPU).share(list(range(n_batches))) for rank in range(n)]
            assert {len(share) for share in shares} == {n_batches // n}
            dealt = sorted(batch for share in shares for batch in share)
            assert dealt == list(range(n_batches - n_batches % n))


def test_first_worker_draws_what_a_single_worker_draws():
    alone = np.random.default_rng(0)
    assert Worker(0, 3, CPU).generator(alone, 7, 2) is alone
    drawn = [Worker(rank, 3, CPU).generator(alone, 7, 2).random() for rank in (1, 2, 2)]
    assert drawn[0] != drawn[1] == drawn[2]


@pytest.fixture(scope="module")
def quick(tiny):
    """Two epochs of batches of four people with two images each, for two workers."""
    data = dataclasses.replace(tiny.data, n_per_id=2)
    schedule = dataclasses.replace(tiny.schedule, epochs=2, device="cpu")
    return dataclasses.replace(tiny, data=data, schedule=schedule)


DIES_AFTER_ONE_EPOCH = """
import os, sys
from reid_training import train
from reid_training.cli import main
from tracker.settings import to_toml
write = train.save_checkpoint
def write_and_die(*arguments):
    write(*arguments)
    os._exit(9)
train.save_checkpoint = write_and_die
sys.exit(main())
"""


def torchrun(
    config: Path,
    market: Path,
    out: Path,
    *more: str,
    n: int = 2,
    program: tuple[str, ...] = ("-m", "reid_training.cli"),
) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *program]
    command = ["train", "--config", str(config), "--data", str(market), "--out", str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launch, *command], capture_output=True, text=True, env=environment, timeout=250, check=False
    )


@pytest.fixture(scope="module")
def together(tmp_path_factory, market, quick):
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "quick.toml").write_text(to_toml(quick))
    done = torchrun(folder / "quick.toml", market, folder / "run")
    assert done.returncode == 0, done.stderr
    return folder, done


def by_hand(config, dataset, n: int):
    """The averaged weights after the gradients of `n` batches were averaged in every step, all in this process."""
    train_set, _ = split_identities(dataset.train, config.data.val_fraction, config.seed)
    images = read_images(train_set, config.data.height, config.data.width)
    people, labels = np.unique(train_set.pids, return_inverse=True)
    torch.set_num_threads(config.schedule.threads)  # AdamW makes much of the last bits of small gradients
    torch.manual_seed(config.seed)
    method = new_method(config, len(people)).to(memory_format=torch.channels_last)
    average = copy.deepcopy(method).eval()
    optimiser = torch.optim.AdamW(parameter_groups(method, config.schedule.weight_decay))
    for epoch in range(config.schedule.epochs):
        first = np.random.default_rng([config.seed, 2, epoch])
        batches = list(pk_batches(train_set.pids, config.data.n_ids, config.data.n_per_id, first))
        n_steps = len(batches) // n
        assert n_steps > 1
        generators = [first, *(np.random.default_rng([config.seed, 4, epoch, rank]) for rank in range(1, n))]
        for index in range(n_steps):
            gradients = []
            for rank, rng in enumerate(generators):
                rows = batches[index * n + rank]
                # The statistics of BN are those of the first.
                twin = method if rank == 0 else copy.deepcopy(method)
                twin.train().zero_grad()
                twin.loss(augment(images[rows], rng, config.augment), torch.from_numpy(labels[rows])).total.backward()
                gradients.append([p.grad.clone() for p in twin.parameters() if p.requires_grad])
            step = epoch * n_steps + index
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, n_steps, config.schedule)
            for parameter, *parts in zip((p for p in method.parameters() if p.requires_grad), *gradients, strict=True):
                parameter.grad = torch.stack(parts).mean(0)
            optimiser.step()
            update_average(average, method, config.schedule.ema_decay, step)
    return average.state_dict()


@pytest.mark.slow
def test_two_processes_average_their_gradients(together, market, quick):
    folder, _ = together
    expected, got = by_hand(quick, market1501.read(market), 2), load_checkpoint(folder / "run")["ema"]
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
def test_only_the_first_process_writes_and_prints(together, quick):
    folder, done = together
    assert {path.name for path in (folder / "run").iterdir()} >= {"config.toml", "last.pt", "metrics.csv", "curve.png"}
    assert len((folder / "run" / "metrics.csv").read_text().splitlines()) == 1 + quick.schedule.epochs
    assert done.stdout.count("written to") == 1
    assert done.stdout.count("held out") == 1


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bits(together, market, quick):
    folder, _ = together
    config = folder / "quick.toml"
    checkpoint = folder / "cut" / "last.pt"
    state = load_checkpoint(folder / "run")
    (folder / "dies.py").write_text(DIES_AFTER_ONE_EPOCH)
    cut = torchrun(config, market, folder / "cut", program=(str(folder / "dies.py"),))
    assert cut.returncode != 0
    assert len(load_checkpoint(checkpoint)["history"]) == 1
    done = torchrun(config, market, folder / "cut", "--resume")
    assert done.returncode == 0, done.stderr
    assert all(torch.equal(value, state["ema"][name]) for name, value in load_checkpoint(checkpoint)["ema"].items())


@pytest.mark.slow
def test_one_torchrun_process_equals_a_plain_run(tmp_path, market, quick):
    train(quick, market1501.read(market), tmp_path / "alone")
    (tmp_path / "quick.toml").write_text(to_toml(quick))
    assert torchrun(tmp_path / "quick.toml", market, tmp_path / "run", n=1).returncode == 0
    alone, run = (load_checkpoint(tmp_path / name)["ema"] for name in ("alone", "run"))
    assert all(torch.equal(value, run[name]) for name, value in alone.items())


@pytest.mark.slow
def test_more_processes_than_batches_is_one_clear_line(tmp_path, market, quick):
    one_batch = dataclasses.replace(quick, data=dataclasses.replace(quick.data, n_ids=9, n_per_id=12))
    (tmp_path / "one.toml").write_text(to_toml(one_batch))
    done = torchrun(tmp_path / "one.toml", market, tmp_path / "run")
    assert done.returncode != 0
    assert "fewer batches than processes (2): lower data.n_ids or data.n_per_id" in done.stderr


def test_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == CPU
    with pytest.raises(ConfigError, match=r"schedule\.device is cuda, but torch finds no GPU here"):
        find_device("cuda")
    with pytest.raises(ConfigError, match=r"schedule\.device must be one of auto, cpu, cuda, got 'tpu'"):
        from_dict({"schedule": {"device": "tpu"}})


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_half_precision_learns_and_its_loss_is_scaled(tmp_path, market, tiny, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    config = dataclasses.replace(
        tiny, schedule=dataclasses.replace(tiny.schedule, precision="fp16", device=device, epochs=8)
    )
    history = train(config, market1501.read(market), tmp_path / "run")
    assert history[-1]["loss"] < history[0]["loss"]
    assert load_checkpoint(tmp_path / "run")["scaler"]["scale"] >= 1.0


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts pages in /proc")
def test_freed_memory_is_kept_by_the_process():
    script = """
import torch
from pathlib import Path
from reid_training.devices import keep_freed_memory
def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])
for keep in (False, True):
    if keep:
        keep_freed_memory()
    before = pages()
    torch.ones(2**26)  # 256 MiB, freed at once
    print(round((pages() - before) * 4096 / 2**20))
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert int(printed[0]) < 64
    if "glibc" in os.confstr("CS_GNU_LIBC_VERSION"):
        assert int(printed[1]) > 192
