"""Where the time of a training step goes, and whether torch.compile would pay for itself within a run.

Prints the ten operations that take the longest on the device. With --compile: the step's time with and without
torch.compile, what compiling for training and for validation costs, and what it saves over the shipped 20 epochs.
"""

import os
import statistics

import measure
import torch
from torch.profiler import ProfilerActivity, profile

import wikiart
from support import settings


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = measure.parser(
        __doc__, network="residual", image_size=128, device="auto", steps=20, rounds=5, paintings=7587, classes=7
    )
    parser.add_argument("--compile", action="store_true", help="compare with torch.compile")
    arguments = parser.parse_args(argv)
    options, device = measure.begin(device=arguments.device, image_size=arguments.image_size)
    size = options.image_size
    images = torch.rand(options.batch_size, 3, size, size, device=device)
    labels = torch.randint(arguments.classes, (options.batch_size,), device=device)
    trainee = measure.make_trainee(arguments.network, arguments.classes, size, device)
    trainee.steps(images, labels, 5)
    measure.synchronise(device)

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        trainee.steps(images, labels, arguments.steps)
        measure.synchronise(device)
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=10, max_name_column_width=60))
    figures = {"machine": measure.machine(device), "network": arguments.network, "image_size": size}
    if arguments.compile:
        figures |= compare_compiled(arguments, options, device, trainee, images, labels)
    measure.report(figures, arguments.json)


def compare_compiled(
    arguments: object,
    options: settings.Settings,
    device: torch.device,
    plain: measure.Trainee,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> dict[str, object]:
    """The step with and without torch.compile, in turns, and the balance over a run."""
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # what an earlier run has compiled must not help
    compiled = measure.make_trainee(arguments.network, arguments.classes, options.image_size, device)
    compiled = compiled._replace(model=torch.compile(compiled.model))

    def validate() -> None:
        compiled.model.eval()
        wikiart.classify(compiled.model, images, measure.MEAN, measure.STD)

    first = measure.seconds(lambda: compiled.steps(images, labels, 1), device)
    if arguments.network != "autoencoder":
        first += measure.seconds(validate, device)
    works = {
        "plain": lambda: plain.steps(images, labels, arguments.steps),
        "compiled": lambda: compiled.steps(images, labels, arguments.steps),
    }
    times = measure.in_turns(works, arguments.rounds, device)
    plain_step, compiled_step = (statistics.median(times[name]) / arguments.steps for name in works)
    steps = options.epochs * -(-arguments.paintings // options.batch_size)
    return {
        "step_ms": 1000 * plain_step,
        "compiled_step_ms": 1000 * compiled_step,
        "compile_seconds": first,
        "steps_of_a_run": steps,
        "saved_seconds_in_a_run": steps * (plain_step - compiled_step),
        "pays": steps * (plain_step - compiled_step) > first,
    }


if __name__ == "__main__":
    main()
