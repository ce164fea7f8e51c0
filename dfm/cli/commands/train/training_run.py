"""A training run: its parts, the trainer, and everything beside the training steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf

from dfm.basics.devices import resolve_device
from dfm.basics.errors import ProcessError, UserError
from dfm.basics.files import write_atomically, write_json
from dfm.cli import console
from dfm.cli.commands.nll.estimates import suited_entries
from dfm.cli.commands.train.initial_weights import find_initial_weights, load_initial_weights, seen_as_before
from dfm.cli.commands.train.resume_checks import adapt_rate, check_same_data
from dfm.cli.commands.train.validation import validation_of
from dfm.cli.composition.unused_settings import check_objective_groups, check_settings
from dfm.cli.job import Job
from dfm.cli.progress import duration
from dfm.cli.settings import TrainSettings
from dfm.cli.words.printed_command import printed, resumed, setting
from dfm.data.dataset import SPLITS
from dfm.denoising.denoiser import Denoiser
from dfm.runs import checkpoint
from dfm.runs.checkpoint import Checkpoint, blame_checkpoint
from dfm.runs.directory import checkpoint_files, checkpoints, environment, step_of
from dfm.runs.pictures.decoders import Decoder, NoDecoder
from dfm.runs.places import private_keys
from dfm.runs.recorder import Recorder
from dfm.sampling.draw import check_count
from dfm.training.step_report import StepReport
from dfm.training.trainer import Trainer


class TrainingRun:
    """A run in its directory, fresh or resumed.

    Only the first process has a recorder. It writes and prints for all processes.

    Args:
        job: the job. If its setting ``resume`` is set, the run goes on from its newest whole checkpoint.

    Raises:
        UserError: a part cannot be built, data cannot be read, or there is no checkpoint to resume from.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.parts, resume = job, job.parts, bool(job.settings.resume)
        parts, wanted = self.parts, self.settings
        keep = parts.trainer.keep_checkpoints
        self.recorder = Recorder(job.directory, parts.logger, keep) if job.world.first else None
        if not resume:
            check_objective_groups(parts)
            check_settings(parts.likelihood, "likelihood")
        check_count(wanted.samples.n, wanted.nll.batch_size, ("samples.n", "nll.batch_size"))
        self.device = resolve_device(parts.trainer.device, job.world.local)
        if self.recorder is not None:
            parts.objective.rounds.directory = job.directory
        _ = (parts.sampler, parts.likelihood)  # mistakes in them are reported before the data are read
        console.say(f"reading the data: {job.choice('dataset')}")
        self.spec = parts.spec(wanted.conditional or parts.objective.trains == "classifier")
        console.notices(parts.dataset.all_notices)
        origin = None if resume else find_initial_weights(job)
        if origin is not None:
            self.spec = seen_as_before(self.spec, origin.spec)
        self.decoder = self._find_decoder()
        console.say(f"building the network: {job.choice('model')}")
        self.trainer = self._make_trainer()
        self._check_report()
        if resume:
            self._resume()
        else:
            parts.objective.check_start(self.trainer.denoiser)
            if origin is not None:
                load_initial_weights(self.trainer, job, self.spec, origin)
        self._logged = (self.trainer.step, self.trainer.seconds)
        self.reported = self.trainer.step
        if self.recorder is not None:
            self._describe()
            self.recorder.open(self.trainer.step)
            self.recorder.saved = self.trainer.step if resume else None
        self._validation = validation_of(parts)
        if resume:
            content = self.content()
            if self.recorder is not None:
                self.recorder.weights(content)  # a kill between checkpoint and weights may have left old weights

    def _find_decoder(self) -> Decoder:
        """Return what makes pictures of latents. One of a stored run that is not there any more costs a line only.

        Raises:
            UserError: the command line names one that is not there, or does not suit the data.
        """
        if self.recorder is None:  # only the first process draws
            return NoDecoder()
        try:
            self.parts.decoder.check(self.spec)
            return self.parts.decoder
        except UserError as problem:
            if any(text.lstrip("+").startswith("decoder") for text in self.job.overrides):
                raise
            console.warn(f"pictures show the latents themselves, without the decoder of the run: {problem}")
            return NoDecoder()

    def _make_trainer(self) -> Trainer:
        """Return a trainer with fresh weights."""
        parts = self.parts
        return Trainer(
            parts.trainer,
            parts.model(self.spec),
            parts.objective,
            parts.dataset.split("train"),
            device=self.device,
            flip=parts.dataset.flip,
            dequantization=parts.dequantization,
            label_dropout=self.settings.label_dropout,
            warp=parts.augmentation,
            world=self.job.world,
        )

    def _check_report(self) -> None:
        """Refuse now what the report at the end would refuse: a misspelt split, an estimator that does not suit."""
        parts, wanted = self.parts, self.settings.nll
        if wanted.max_minutes is not None and not wanted.max_minutes > 0:
            raise UserError(f"nll.max_minutes={wanted.max_minutes:g}; allowed: above 0, or null; try nll.n=0 for none")
        split = parts.dataset.split(wanted.split)
        if wanted.n and len(split) and parts.objective.trains == "denoiser" and parts.objective.outcome({}).has_ode:
            suited_entries(cast(Denoiser, self.trainer.denoiser), parts.likelihood, parts.dequantization)

    @property
    def settings(self) -> TrainSettings:
        """The keys of ``dfm train``."""
        settings: TrainSettings = self.job.settings
        return settings

    def _resume(self) -> None:
        """Load the newest whole checkpoint of the run.

        Raises:
            UserError: there is none, the data have changed, or the number of steps of a run in rounds has changed.
            ProcessError: the processes read different checkpoints.
        """
        world, directory = self.job.world, self.job.directory
        newest, messages = checkpoint.first_whole(checkpoint_files(str(directory)), lambda _: self._afresh())
        for message in messages:
            console.warn(message)
        check_same_data(newest, self.spec, self.parts.dataset, directory)
        found, self.spec = self.spec, replace(newest.spec, class_names=self.spec.class_names)
        if found != self.spec:  # dfm 0.1 took no centre and scaled no column; init= may have kept the weights' own
            self.trainer = self._make_trainer()
        before = {key: newest.config["trainer"].get(key) for key in ("max_steps", "max_minutes")}
        now = {key: self.job.config["trainer"].get(key) for key in before}
        if self.parts.objective.rounds.count > 1 and before != now:
            raise UserError(f"resume: {now}; allowed: {before}, because the rounds of this run depend on them")
        with blame_checkpoint(newest):
            self.trainer.load_state(newest.state)
            adapt_rate(self.trainer, newest.config["trainer"])
        steps = world.all_gather(self.trainer.step)
        if len(set(steps)) > 1:
            raise ProcessError(f"process {world.rank}: the processes resume at steps {steps}; try again")
        if world.first:
            checkpoint.set_aside(directory, self.trainer.step)
        console.say(f"resumed at step {self.trainer.step} from {newest.path}")

    def _afresh(self) -> str:
        """Return the command for a fresh run with these settings, and with the weights if their own file is there."""
        weights = self.directory / checkpoint.WEIGHTS
        has_start = weights.is_file() and not self.parts.objective.needs_teacher
        return printed("train", setting("from", self.directory), *([setting("init", weights)] if has_start else []))

    def _describe(self) -> None:
        """Write the small files, and print a line on the data and the model."""
        directory, device = self.job.directory, self.device
        write_atomically(directory / "config.yaml", OmegaConf.to_yaml(self.job.config).encode())
        cuda = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} threads"
        write_json(directory / "environment.json", environment(f"{device} ({name})"))
        count = sum(p.numel() for p in self.trainer.parameters)
        console.say(
            f"{self.spec.name} {'x'.join(map(str, self.spec.shape))}, {len(self.trainer.batches.split)} training "
            f"examples; {count:,} parameters; {device} ({name})"
        )

    def log_step(self, report: StepReport) -> dict[str, float]:
        """Write one line of metrics: this step's loss, not averaged, and the speed since the last line."""
        (step, seconds), config = self._logged, self.parts.trainer
        line = {
            "step": report.step,
            "images": report.images,
            "loss": float(report.loss),
            "learning_rate": report.learning_rate,
            "grad_norm": float(report.grad_norm),
            "images_per_second": (report.step - step) * config.batch_size / max(1e-9, report.seconds - seconds),
            "seconds": report.seconds,
        }
        self._logged = (report.step, report.seconds)
        self._numbers(line)
        if not console.interactive() and report.step % (10 * config.log_every) == 0:
            left = report.seconds / max(self.trainer.progress, 1e-9) - report.seconds
            console.say(
                f"step {report.step}/{config.max_steps}  loss {line['loss']:.4f}  "
                f"{line['images_per_second']:.0f} images/s  {duration(left)} left"
            )
        return line

    def log_skipped(self, report: StepReport) -> None:
        """Write a line of metrics and a warning about a step that was not taken."""
        skipped = report.skipped
        assert skipped is not None
        console.warn(f"step {report.step} was not taken: {skipped}")
        line = {"step": report.step, "skipped": True, "indices": list(skipped.indices), "log_nsr": skipped.log_nsr}
        if self.recorder is not None:
            self.recorder.line({**line, "layer": skipped.layer})

    def log_measurements(self, measurements: dict[str, float]) -> None:
        """Write the objective's measurements, if there are any."""
        if measurements:
            self._numbers({"step": self.trainer.step, **measurements})
            text = ", ".join(f"{key} {value:.4g}" for key, value in measurements.items())
            console.say(f"step {self.trainer.step}: {text}")

    def validate(self) -> None:
        """Write the loss of the averaged weights on the validation split, or on the test split if that one is empty."""
        averaged, split = self.trainer.averaged(everywhere=False), self._validation.split
        if split is not None and self.parts.objective.validates and self.recorder is not None:
            loss = self.trainer.validation_loss(averaged, split, self._validation.count)
            self._numbers({"step": self.trainer.step, "validation_loss": loss})

    def _numbers(self, line: dict[str, Any]) -> None:
        if self.recorder is not None:
            self.recorder.numbers(line)

    def content(self) -> Checkpoint:
        """Return the state of the run as a checkpoint. All processes must call this together."""
        config, state = self.job.config, self.trainer.state()
        data = {name: self.parts.dataset.fingerprint(name) for name in SPLITS} if self.job.world.first else {}
        private = private_keys(config, self.job.trusted)
        return Checkpoint(config=config, spec=self.spec, state=state, data=data, private=private)

    def save(self) -> None:
        """Write a checkpoint."""
        content = self.content()
        if self.recorder is not None:
            self.recorder.checkpoint(content)

    def save_if_reported(self) -> None:
        """Write a checkpoint if the metrics of the last step are written; a resumed run would lack them otherwise."""
        if self.reported == self.trainer.step:
            self.save()

    def refuse_if_not_saved(self) -> None:
        """Refuse to end well without a checkpoint of the last step. All processes must call this together.

        Raises:
            UserError: the checkpoint of the last step is not on disk.
        """
        saved = self.job.world.all_gather(self.recorder.saved if self.recorder is not None else None)[0]
        if saved != self.trainer.step:
            raise UserError(
                f"the checkpoint of the last step, {self.trainer.step}, is not on disk; "
                f"{way_on(self.directory)}; free some space first"
            )

    def close(self) -> None:
        """Close the run's files."""
        if self.recorder is not None:
            self.recorder.close()

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return self.job.directory


def way_on(directory: Path) -> str:
    """Return which checkpoint of a run is on disk, and how to go on from it."""
    files = checkpoints(directory)
    if not files:
        return f"{directory} has no checkpoint"
    return f"the newest checkpoint is that of step {step_of(files[0])}; to go on, try {resumed(directory)}"
