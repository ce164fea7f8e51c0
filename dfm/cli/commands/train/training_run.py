"""A training run on disk: what ``dfm train`` does beside taking steps."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dfm.basics.devices import resolve_device
from dfm.basics.errors import ProcessError, UserError
from dfm.basics.files import remove_unfinished, write_atomically, write_json
from dfm.basics.processes import World
from dfm.cli import console
from dfm.cli.command_line import overrides
from dfm.cli.commands.train.initial_weights import load_initial_weights
from dfm.cli.settings import GridSettings, LikelihoodSettings
from dfm.cli.unused_settings import check_objective, check_settings
from dfm.data.dataset import Split
from dfm.runs import checkpoint
from dfm.runs import images as images_io
from dfm.runs import parts as assemble
from dfm.runs.build import build, conform, settings
from dfm.runs.directory import checkpoint_files, checkpoints, environment, lock_run, step_of, write_overrides
from dfm.runs.images import picture
from dfm.runs.loggers import Logger, NoLogger
from dfm.runs.metrics import MetricsFile, best_step
from dfm.sampling.draw import check_count, check_labels, draw_samples, stored
from dfm.training.trainer import StepReport, Trainer, TrainerConfig


class Run:
    """The parts of a run, its directory, and the files that they leave.

    Args:
        config: resolved, plain containers.
        resume: go on from the newest whole checkpoint in ``directory``.

    Raises:
        UserError: a part that cannot be built, data that cannot be read, nothing to resume from.
    """

    def __init__(self, config: dict[str, Any], directory: Path, resume: bool, world: World | None = None) -> None:
        self.world = world or World()
        self.lock = lock_run(directory) if self.world.first else None
        if not resume and checkpoints(directory):
            raise UserError(f"{directory} already holds a run; try resume={directory}, or another hydra.run.dir")
        if self.world.first:
            remove_unfinished(directory)
        if not resume:
            assemble.check_used(config)
            check_objective(config, assemble.is_classifier(config))
        trust = assemble.trusted(config)
        self.config, self.directory = config, directory
        self.samples = settings(config["samples"], GridSettings, "samples")
        self.nll = settings(config["nll"], LikelihoodSettings, "nll")
        check_count(self.samples.n, self.nll.batch_size)
        self.trainer_config: TrainerConfig = build(config["trainer"], "trainer", trust)
        self.device = resolve_device(self.trainer_config.device, self.world.local)
        self.logger: Logger = build(config["logger"], "logger", trust) if self.world.first else NoLogger()
        self.objective = assemble.objective(config, trust)
        if self.world.first:
            self.objective = self.objective.with_directory(directory)
        self.sampler = assemble.sampler(config, trust)
        self.likelihood = assemble.likelihood(config, trust)
        if not resume:
            check_settings(self.likelihood, "likelihood")
        self.dequantization = assemble.dequantization(config, trust)
        self.dataset = assemble.dataset(config, trust)
        conditional = conform(config["conditional"], bool, "conditional") or assemble.is_classifier(config)
        self.spec = assemble.spec_of(self.dataset, conditional)
        self.trainer = Trainer(
            self.trainer_config,
            assemble.model(config, self.spec, trust),
            self.objective,
            self.dataset.split("train"),
            device=self.device,
            flip=self.dataset.flip,
            dequantization=self.dequantization,
            label_dropout=conform(config.get("label_dropout", 0.0), float, "label_dropout"),
            world=self.world,
        )
        self.dataset.split(self.nll.split)  # a misspelt split must not be found out at the end
        self.labels = check_labels(self.spec, None, range(self.samples.n))
        if resume:
            self._load()
        else:
            load_initial_weights(
                self.trainer, self.objective, config, conform(config.get("init"), str | None, "init"), self.spec
            )
        self.metrics: MetricsFile | None = None
        if self.world.first:
            self._describe()
            self.metrics = MetricsFile(directory / "metrics.jsonl", after_step=self.trainer.step)
        self.logger.open(directory, self.trainer.step)
        self._logged = (self.trainer.step, self.trainer.seconds)
        self.reported = self.trainer.step
        if resume:
            content = self._content()
            if self.world.first:
                self.save_weights(content)  # a kill between the two may have left those of an older step

    def _load(self) -> None:
        found, refused = checkpoint.first_whole(checkpoint_files(str(self.directory)))
        for message in refused:
            console.warn(message)
        if found.spec != self.spec:
            raise UserError(f"the data have changed since this run began: they were {found.spec}, they are {self.spec}")
        before = {key: found.config["trainer"].get(key) for key in ("max_steps", "max_minutes")}
        now = {key: self.config["trainer"].get(key) for key in before}
        if self.objective.rounds > 1 and before != now:
            raise UserError(f"resume: {now} where the run has {before}; allowed: the same, which its rounds follow")
        with checkpoint.blame_checkpoint(found):
            self.trainer.load_state(found.state)
        steps = self.world.all_gather(self.trainer.step)
        if len(set(steps)) > 1:
            raise ProcessError(f"process {self.world.rank}: the processes resume at steps {steps}; try again")
        if self.world.first:
            checkpoint.set_aside(self.directory, self.trainer.step)
        console.say(f"resumed at step {self.trainer.step} from {found.path}")

    def _describe(self) -> None:
        """The small files, and a line on what is about to happen."""
        write_atomically(self.directory / "config.yaml", OmegaConf.to_yaml(self.config).encode())
        if not (self.directory / "overrides.txt").exists():
            write_overrides(self.directory, overrides())
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        write_json(self.directory / "environment.json", environment(f"{self.device} ({name})"))
        count = sum(p.numel() for p in self.trainer.parameters)
        console.say(
            f"{self.spec.name} {'x'.join(map(str, self.spec.shape))}, {len(self.trainer.batches.split)} training "
            f"examples; {count:,} parameters; {self.device} ({name})"
        )

    def log_step(self, report: StepReport) -> dict[str, float]:
        """A line of metrics, averaged over nothing: the loss of this very step; speed since the last line."""
        step, seconds = self._logged
        size = self.trainer_config.batch_size
        line = {
            "step": report.step,
            "images": report.images,
            "loss": float(report.loss),
            "learning_rate": report.learning_rate,
            "grad_norm": float(report.grad_norm),
            "images_per_second": (report.step - step) * size / max(1e-9, report.seconds - seconds),
            "seconds": report.seconds,
        }
        self._logged = (report.step, report.seconds)
        self._write(line)
        if not console.interactive() and (report.step % (10 * self.trainer_config.log_every) == 0):
            left = report.seconds / max(self.trainer.progress, 1e-9) - report.seconds
            console.say(
                f"step {report.step}/{self.trainer_config.max_steps}  loss {line['loss']:.4f}  "
                f"{line['images_per_second']:.0f} images/s  {left:.0f} s left"
            )
        return line

    def log_trouble(self, report: StepReport) -> None:
        """A line of metrics, and one of warning, on a step that was not taken."""
        assert report.trouble is not None
        trouble = report.trouble
        console.warn(f"step {report.step} was not taken: {trouble}")
        line = {"step": report.step, "skipped": True, "indices": list(trouble.indices), "log_nsr": trouble.log_nsr}
        self._write_line({**line, "layer": trouble.layer})

    def validate(self) -> None:
        """A line with the averaged weights' loss on the validation split (the test split where there is none)."""
        split, averaged = self._held_out(), self.trainer.averaged(everywhere=False)
        if split is not None and self.objective.validates and self.world.first:
            self._write({"step": self.trainer.step, "validation_loss": self.trainer.validation_loss(averaged, split)})

    def _held_out(self) -> Split | None:
        for name in ("validation", "test"):
            if len(self.dataset.split(name)):
                return self.dataset.split(name)
        return None

    def _write(self, line: dict[str, Any]) -> None:
        # Infinities would not be JSON; a gradient may legitimately be unbounded for one line.
        finite = {k: v if math.isfinite(v) else None for k, v in line.items()}
        scalars = {k: v for k, v in line.items() if k not in ("step", "images")}
        self._write_line(finite)
        self._keep_going("logger's numbers", lambda: self.logger.scalars(line["step"], scalars))

    def _write_line(self, line: dict[str, Any]) -> None:
        if self.metrics is not None:
            self._keep_going("metrics", partial(self.metrics.write, line))

    def draw(self) -> None:
        """A grid of samples of the averaged weights, always from the same latents; a classifier draws none."""
        averaged = self.trainer.averaged(everywhere=False)
        if assemble.is_classifier(self.config) or not self.world.first:
            return
        result = draw_samples(
            averaged,
            self.sampler,
            range(self.samples.n),
            seed=self.samples.seed,
            batch_size=256,
            labels=self.labels,
            device=self.device,
            convert=lambda x: stored(x, self.spec),
        )
        image = picture(result.samples, self.spec)
        path = self.directory / "samples" / f"step_{self.trainer.step:08d}.png"
        self._keep_going("sample grid", lambda: path.parent.mkdir(exist_ok=True))
        self._keep_going("sample grid", lambda: images_io.save_png(image, path))
        self._keep_going("logger's picture", lambda: self.logger.image(self.trainer.step, "samples", image))

    def save(self) -> None:
        """A checkpoint; where the disk is full the run goes on, and the one before stands."""
        content = self._content()
        if not self.world.first:
            return
        if self.metrics is not None:
            self._keep_going("metrics", self.metrics.sync)
        self._keep_going("checkpoint", lambda: self._save(content))
        self.save_weights(content)

    def _content(self) -> checkpoint.Checkpoint:
        return checkpoint.Checkpoint(config=self.config, spec=self.spec, state=self.trainer.state())

    def _save(self, content: checkpoint.Checkpoint) -> None:
        steps = [step_of(path) for path in checkpoints(self.directory)]
        best = best_step(self.directory, [*steps, content.step])
        checkpoint.save(content, self.directory / "checkpoints", self.trainer_config.keep_checkpoints, best)

    def save_weights(self, content: checkpoint.Checkpoint) -> None:
        """``weights.safetensors``."""
        self._keep_going("weights", lambda: checkpoint.save_weights(content, self.directory))

    def save_if_reported(self) -> None:
        """A checkpoint, if all that the last step was to leave is written: else a resumed run would lack it."""
        if self.reported == self.trainer.step:
            self.save()

    def _keep_going(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            console.warn(
                f"{what} of step {self.trainer.step} not written ({error.strerror or error}); "
                "what is on disk is intact and the run goes on; free some space"
            )

    def close(self) -> None:
        """End the files that are open."""
        if self.metrics is not None:
            self._keep_going("metrics", self.metrics.close)
        self._keep_going("logger's numbers", self.logger.close)
        if self.lock is not None:
            self.lock.close()

    def tell(self, news: dict[str, float]) -> None:
        """A line of what the objective measured."""
        if news:
            self._write({"step": self.trainer.step, **news})
            console.say(f"step {self.trainer.step}: " + ", ".join(f"{key} {value:.4g}" for key, value in news.items()))
