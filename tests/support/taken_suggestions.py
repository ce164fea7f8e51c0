"""Which suggestions of dfm a test takes: how many of each file, and why the others are left."""

STATE = "a state of the machine, or of a file; what it suggests lies outside dfm"
OUTSIDE = "a line of Python or of a shell that makes another file"
PROCESSES = "another process, or several"
NOTICE = "a notice or a warning beside a result: nothing was refused"
DEVICES = "two devices"

LEFT = {  # file: {a piece of the message: why no row takes what it suggests, or the test that does}
    "basics/files.py": {
        "try to free some space": STATE,
        "try a place where": STATE,
        "try fewer programs": STATE,
        "try another path": STATE,
        "the disk has failed": STATE,
    },
    "basics/processes.py": {
        "does not answer": PROCESSES,
    },
    "cli/commands/decode.py": {
        "one class per latent": "tests/cli/test_encode_decode_compare.py",
        "which this model lacks": "tests/cli/test_class_names.py",
    },
    "cli/commands/nll/estimates.py": {
        "drawn at random": NOTICE,
    },
    "cli/commands/nll/report.py": {
        "bits/dim of uniform noise": NOTICE,
        "not converged": NOTICE,
    },
    "cli/commands/train/command.py": {
        "to begin again at": "tests/training/test_step_failures.py",
        "there is no checkpoint yet": NOTICE,
        "which share each batch": PROCESSES,
    },
    "cli/commands/train/initial_weights.py": {
        "is told of a change by": "a warp of the user's own",
    },
    "cli/commands/train/pictures.py": {
        "the last picture has": NOTICE,
        "for quicker ones": NOTICE,
    },
    "cli/commands/train/resume.py": {
        "allowed: the settings of the run": "a resumed Python or YAML setting, without a word to repeat",
    },
    "cli/commands/train/resume_checks.py": {
        "the data with which this run started": "tests/cli/stored_runs/test_moved_data.py",
    },
    "cli/commands/train/training_run.py": {
        "to go on, try": "tests/cli/test_signals.py",
        "resume at steps": PROCESSES,
    },
    "cli/commands/train/validation.py": {"so that it takes": NOTICE},
    "cli/from_checkpoint.py": {
        "which leads towards a class": "tests/cli/test_class_names.py",
        "has its own sampler": NOTICE,
        ": this student is made for": NOTICE,
    },
    "cli/jobs/directories.py": {
        "of another job of this multirun": "tests/robustness/test_multirun.py",
    },
    "cli/jobs/multirun.py": {
        "the multirun ended before": PROCESSES,
    },
    "cli/launch.py": {
        "--help": "an error of Hydra that dfm does not know",
    },
    "cli/surroundings/endings.py": {
        "out of memory": STATE,
    },
    "cli/surroundings/streams.py": {
        "a part of the output is lost": STATE,
    },
    "data/hubs/hugging_face_source.py": {
        "dataset.download=true": "a server, which no test asks",
        "with a local copy": "a server, which no test asks",
    },
    "data/hubs/library.py": {
        "is not installed": STATE,
        "may run code": STATE,
    },
    "data/arrays/array_file.py": {
        "x.astype(int)": OUTSIDE,
    },
    "data/arrays/formats/npy.py": {
        "try dataset.key": "tests/data/arrays/test_refusals.py",
    },
    "data/arrays/formats/number_types.py": {
        " holds {} (": OUTSIDE,
    },
    "data/arrays/formats/open_source.py": {
        "has the ending": OUTSIDE,
    },
    "data/arrays/formats/parquet.py": {
        "pip install": OUTSIDE,
    },
    "data/arrays/formats/source.py": {
        "needs a file of": STATE,
    },
    "data/arrays/formats/table.py": {
        "is no number": "tests/data/arrays/test_refusals.py",
    },
    "data/numbers/integer_range.py": {
        "whole numbers from": "tests/data/arrays/test_refusals.py",
        "for more": "tests/data/arrays/test_refusals.py",
        "holds the number {}; allowed: {} to {}; try": "tests/data/arrays/test_refusals.py",
    },
    "data/arrays/layout.py": {
        "try np.reshape": OUTSIDE,
    },
    "data/pictures/decoder.py": {
        "try dataset.max_pixels": "tests/data/pictures/test_kinds_of_files.py",
    },
    "data/pictures/image_folder.py": {
        "no training example among": "tests/data/pictures/test_image_folder.py",
    },
    "data/pictures/layout.py": {
        "which are splits, and beside them": "tests/data/pictures/test_layouts.py",
        "try dataset.labels=false": "tests/data/pictures/test_layouts.py",
    },
    "data/pictures/pixels.py": {
        "try dataset.levels=256": "tests/data/pictures/test_sixteen_bits.py",
        "which need OpenCV": STATE,
    },
    "data/rows/store.py": {
        "fit neither": STATE,
    },
    "denoising/network_denoiser.py": {
        "the network on": DEVICES,
    },
    "denoising/times.py": {
        "t is on": DEVICES,
    },
    "evaluation/classifier_features.py": {
        "cannot be written to": STATE,
    },
    "likelihood/scoring.py": {
        "try uint8 levels": "a type in Python",
    },
    "runs/build.py": {
        "is missing in this configuration": "a configuration of an older version",
    },
    "runs/checkpoint.py": {
        "a checkpoint of format": STATE,
        "; try ": "tests/robustness/test_hostile.py",
        "cannot use its configuration": STATE,
    },
    "runs/claim.py": {
        "without a checkpoint; try": PROCESSES,
        "already holds results": "tests/robustness/test_run_directories.py",
    },
    "runs/directory.py": {
        "no run with a checkpoint below": "the first command in a directory",
        "another process is working": PROCESSES,
    },
    "runs/loading.py": {
        "do not fit its configuration": STATE,
    },
    "runs/pictures/decoders.py": {
        "real numbers of shape": "tests/runs/test_decoders.py",
        "the data deviate by": "tests/runs/test_decoders.py",
        "is not installed": STATE,
    },
    "runs/recorder.py": {
        "try to free some space": STATE,
        "cannot start": STATE,
    },
    "sampling/adaptive_solver.py": {
        "too small at": "tests/sampling/test_adaptive_solver.py",
        "with finite outputs": "a call in Python",
    },
    "sampling/classifier_guidance.py": {
        "no class to guide towards": "a denoiser in Python: dfm sample draws classes",
    },
    "sampling/labels.py": {
        "did you mean": "tests/cli/test_class_names.py",
    },
    "sampling/draw.py": {
        "own_sampler": "tests/cli/test_students.py",
        "the network is on": DEVICES,
    },
    "training/few_steps/meanflow.py": {
        "network of two times": "tests/training/few_steps/test_meanflow.py",
    },
    "training/parallel/strategy.py": {
        "which share them": PROCESSES,
    },
    "training/step_failures.py": {
        "a smaller trainer.lr": "tests/training/test_step_failures.py",
        "has no effect on the loss": PROCESSES,
        "torch.compile failed": STATE,
        "out of memory": STATE,
    },
}

TAKEN = {  # file: how many suggestions the rows take
    "basics/devices.py": 1,
    "basics/errors.py": 1,
    "cli/commands/compare.py": 1,
    "cli/commands/eval/inputs.py": 4,
    "cli/commands/nll/command.py": 2,
    "cli/commands/nll/estimates.py": 2,
    "cli/commands/sample/inverse_task.py": 1,
    "cli/commands/train/initial_weights.py": 5,
    "cli/commands/train/resume.py": 2,
    "cli/commands/train/training_run.py": 1,
    "cli/composition/command_line.py": 1,
    "cli/composition/stored_run.py": 1,
    "cli/composition/unread_keys.py": 2,
    "cli/composition/unused_settings.py": 2,
    "cli/composition/yaml_files.py": 4,
    "cli/from_checkpoint.py": 2,
    "cli/jobs/multirun.py": 1,
    "cli/words/flags.py": 5,
    "cli/words/hydra_errors.py": 15,
    "cli/words/known_keys.py": 7,
    "cli/words/own_code.py": 1,
    "data/hubs/hub_dataset.py": 1,
    "data/hubs/hugging_face_source.py": 4,
    "data/hubs/shards.py": 1,
    "data/hubs/source.py": 1,
    "data/numbers/stored_form.py": 1,
    "data/rows/store.py": 1,
    "denoising/arguments.py": 5,
    "denoising/exact.py": 1,
    "denoising/interpolant.py": 1,
    "denoising/langevin.py": 2,
    "denoising/network_denoiser.py": 2,
    "denoising/predictions.py": 1,
    "evaluation/classifier_features.py": 2,
    "evaluation/lecture_figures.py": 1,
    "evaluation/sample_quality.py": 1,
    "likelihood/estimator.py": 1,
    "likelihood/path_divergence.py": 1,
    "models/blocks.py": 4,
    "models/dimensions.py": 1,
    "models/embeddings.py": 3,
    "models/padding.py": 3,
    "models/unet.py": 5,
    "paths/formulas.py": 1,
    "paths/interpolant_latents.py": 1,
    "paths/potentials.py": 1,
    "paths/priors.py": 2,
    "paths/schedule.py": 1,
    "paths/variance_preserving.py": 1,
    "runs/build.py": 2,
    "runs/claim.py": 3,
    "runs/directory.py": 1,
    "runs/loading.py": 1,
    "runs/parts.py": 4,
    "runs/pictures/masks.py": 1,
    "sampling/adaptive_solver.py": 1,
    "sampling/classifier_guidance.py": 1,
    "sampling/grids.py": 1,
    "sampling/guidance.py": 2,
    "sampling/inverse_problems.py": 4,
    "sampling/labels.py": 2,
    "sampling/samplers.py": 1,
    "training/few_steps/consistency.py": 2,
    "training/few_steps/progressive.py": 1,
    "training/few_steps/reflow_pairs.py": 1,
    "training/objectives/base.py": 1,
    "training/objectives/couplings.py": 2,
    "training/objectives/densities.py": 1,
    "training/parallel/strategy.py": 2,
    "training/trainer_config.py": 1,
    "training/warps.py": 5,
}
