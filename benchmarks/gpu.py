"""One whole small trial on a GPU, and the same models' numbers on the CPU beside it.

Generated clips, a prior pretrained on them, fine-tuning, synthesis, the classifier, an exported generator. It imports
kinemic only and needs no network: ``python -m benchmarks.gpu [--device cpu] [--steps 200]``.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kinemic.bundle import FILE_NAME, GeneratorBundle
from kinemic.config import ExperimentConfig, ModelConfig
from kinemic.device import peak_memory_mb, resolve_device, to_host
from kinemic.errors import KinemicError
from kinemic.inputs import prepare_inputs
from kinemic.models.mdm import MDM
from kinemic.models.mic import MIC
from kinemic.models.stgcn import STGCN
from kinemic.models.temporal import TemporalCNN
from kinemic.reading import parse
from kinemic.trial import run_trial

TEXT = 16


def experiment(steps: int) -> ExperimentConfig:
    """Return a trial of three classes whose prior and fine-tuning take ``steps`` each."""
    model = {"width": 64, "layers": 2, "heads": 4, "ff": 128}
    subjects = {"train_subjects": ["s01", "s02"], "dev_subjects": ["s03", "s04", "s05"]}
    values = {
        "data": {
            "source": {"format": "generated", "part": "source", "clips": 60},
            "target": {"format": "generated", "part": "target", "clips": 48},
            "split": {"classes": ["wave", "squat", "kick"], "shots": 4} | subjects,
        },
        "text": {"encoder": "tfidf", "dim": TEXT},
        "prior": {"pretrain": {"model": model, "steps": steps, "batch_size": 16, "learning_rate": 1e-3}},
        "trial": {
            "mining": {"top_k": 10},
            "adapt": {"rungs": [steps], "batch_size": 12, "learning_rate": 1e-3, "diffusion_steps": 20},
            "synthesis": {"clips_per_class": 4, "sampling_steps": 10},
        },
        "seeds": {"judge": [0]},
    }
    return parse(ExperimentConfig, values, "the benchmark's own settings")


def differences(device: str) -> dict[str, float]:
    """Return by model the largest difference of its outputs on the CPU and on the device, over their largest value."""
    rng = torch.Generator().manual_seed(0)
    latents, lengths = torch.randn(4, 40, 64, generator=rng), torch.tensor([40, 12, 33, 5])
    steps, text = torch.tensor([0, 3, 7, 9]), torch.randn(4, TEXT, generator=rng)
    clips, frames = torch.randn(4, 32, 22, 3, generator=rng), torch.randn(4, 40, 263, generator=rng)
    sizes = ModelConfig(width=64, layers=2, heads=4, ff=128, text_dim=TEXT)
    given: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        "MDM": (MDM(sizes), (frames, steps, text, lengths)),
        "MIC": (MIC(64), (latents, lengths)),
        "ST-GCN": (STGCN(64, 6, 3, inflate_stages=(5,), down_stages=(5,)), (clips,)),
        "temporal": (TemporalCNN(3), (clips,)),
    }
    return {name: _difference(model.eval(), inputs, device) for name, (model, inputs) in given.items()}


@torch.inference_mode()
def _difference(model: nn.Module, inputs: Sequence[Tensor], device: str) -> float:
    here, there = model(*inputs), copy.deepcopy(model).to(device)(*(x.to(device) for x in inputs))
    here, there = (x[0] if isinstance(x, tuple) else x for x in (here, there))
    return float((here - to_host(there)).abs().max() / here.abs().max())


def timed(name: str, call: Callable[[], object]) -> None:
    """Print the seconds of a call; what it starts on the device is waited for."""
    start = time.perf_counter()
    call()
    print(f"{name:<12}{time.perf_counter() - start:8.2f} s", flush=True)


def run(device: str, steps: int, folder: Path) -> None:
    """Run the trial and print what it took and gave."""
    settings = experiment(steps)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    print(f"{device}: {name}, torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}")
    for model, difference in differences(device).items():
        print(f"{model:<12}differs from the CPU by {difference:.1e} of its largest output")
    timed("pretrain", lambda: prepare_inputs(settings, folder / "cache", device))
    inputs = prepare_inputs(settings, folder / "cache", device)
    (report,) = run_trial(inputs, settings.trial, settings.seeds, folder / "trial", device)
    for stage, seconds in report.seconds.items():
        print(f"{stage:<12}{seconds:8.2f} s")
    bundle = GeneratorBundle.load(folder / "trial" / FILE_NAME)
    timed("generate", lambda: bundle.generate(None, 4, seed=1, device=device))
    print(f"dev accuracy {report.dev_accuracy:.2f}, peak memory {peak_memory_mb(device):.0f} MB")
    print(f"a whole trial ran on {report.device}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 where there is no such device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)
    try:
        device = resolve_device(options.device)
        with tempfile.TemporaryDirectory() as folder:
            run(device, options.steps, Path(folder))
    except KinemicError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
