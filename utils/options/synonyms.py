"""What other projects call our options: for hints alone, none of these names is taken."""

from collections.abc import Iterable

from .kinds import dashed, nearest

THEIRS = {
    "lr": "learning_rate base_lr init_lr lr0",
    "max_epoch": "epochs epoch num_epochs n_epochs nepochs num_train_epochs",
    "batch_size": "batch bs train_batch_size per_device_train_batch_size",
    "num_workers": "workers nworkers dataloader_num_workers",
    "use_gpu": "device cuda no_cuda cpu accelerator",
    "gpus": "gpu gpu_id gpu_ids devices num_gpus ngpus nproc_per_node",
    "weight_decay": "wd l2 weight_decay_rate",
    "train_data_root": "data data_dir data_path dataset_dir root train_dir train_path",
    "val_data_root": "val_dir val_path valid_dir",
    "test_data_root": "test_dir test_path source",
    "model": "arch net backbone network model_name",
    "image_size": "imgsz img_size input_size crop_size resolution",
    "train_image_size": "train_crop_size progressive_resizing",
    "optimizer": "opt optim solver",
    "scheduler": "sched lr_scheduler lr_scheduler_type lr_policy",
    "warmup_epochs": "warmup num_warm_up lr_warmup_epochs",
    "criterion": "loss loss_fn loss_type smoothing label_smoothing",
    "work_dir": "output_dir out_dir save_dir log_dir logdir project",
    "load_model_path": "weights checkpoint ckpt load_from initial_checkpoint",
    "resume": "resume_from resume_from_checkpoint ckpt_path",
    "precision": "amp fp16 bf16 mixed_precision dtype",
    "accumulate": "gradient_accumulation_steps grad_accum_steps accumulate_grad_batches accum_iter",
    "clip_grad": "grad_clip max_grad_norm clip_grad_norm gradient_clip_val",
    "ema": "model_ema ema_decay model_ema_decay",
    "print_freq": "log_interval print_interval log_freq logging_steps log_every_n_steps",
    "save_freq": "save_steps save_interval checkpoint_interval",
    "stop_patience": "early_stopping early_stopping_patience",
    "seed": "random_seed manual_seed random_state",
    "finetune": "freeze_backbone freeze_body freeze_encoder",
    "random_erasing": "reprob",
}
CLASSES = "num_classes", "num_class", "n_classes", "nclasses", "nc", "classes", "class_names", "names"
SYNONYMS = {name: ours for ours, names in THEIRS.items() for name in names.split()}


def meant(name: str, options: Iterable[str]) -> str:
    """Which option is probably meant by a name that none has, as the end of a line; "" where none is like it."""
    if ours := SYNONYMS.get(name):
        return f"; it is {dashed(ours)} here, see `help {ours.replace('_', '-')}`"
    if name in CLASSES:
        return ": the data have their classes, by folders, labels or class_name.txt"
    return nearest(name, options).replace("_", "-")
