"""Lines that matter, each with a way to break it and the tests that have to fail then: mutants.py tries them.

{file: [(text that occurs in it once, what takes its place, tests)]}. The tests are files below tests/, each with a part
of the names of those that are run.
"""

BREAKS: dict[str, list[tuple[str, str, str]]] = {
    "main.py": [
        ("schedule.step(epoch, run.batch)", "schedule.step(epoch, 0)", "test_loop.py:every_part_gets"),
        (
            "**opt.kwargs_for(TrainStep))",
            '**opt.kwargs_for(TrainStep) | {"clip_grad": 0.0})',
            "test_loop.py:every_part_gets",
        ),
        ("**opt.kwargs_for(TrainStep))", '**opt.kwargs_for(TrainStep) | {"ema": 0.0})', "test_loop.py:every_part_gets"),
        ("val(step.ema_model, val_loader", "val(model, val_loader", "test_loop.py:every_part_gets"),
        ("channels_last).eval()", "channels_last)", "run/test_resume.py:in_eval_mode"),
        ("if run.batch == 0:", "if True:", "run/test_checkpoint.py:the_middle"),
        ("checkpoint.restore()  #", "#", "run/test_checkpoint.py:the_middle"),
        ('schedule.epoch_end(metrics["loss"], ', "schedule.epoch_end(0.0, ", "test_loop.py:the_books_rule"),
        ("torch.manual_seed(opt.seed)", "torch.manual_seed(0)", "test_loop.py:the_seed_decides"),
        ("set_criterion(opt.criterion, train_data.weights)", "set_criterion(opt.criterion)", "test_loop.py:val_weighs"),
        ("model.freeze_body(opt.unfreeze_epoch)", "pass", "run/test_resume.py:fine_tuning"),
        ("auto.settle(opt, model, train_data)", "pass", "train/test_precision.py:a_training_is_the_same"),
        ("world.reduce_meters(meter, loss_meter)", "pass", "train/test_processes.py:two_processes_train_one_run"),
        ("    with eval_mode(model):\n", "    if True:\n", "run/test_resume.py:restores_the_mode"),
    ],
    "utils/deploy/predict.py": [
        (' and model.task != "segmentation"', "", "deploy/test_predict.py:masks_are_written"),
        ('file.info.get("Software") == WRITER', "True", "deploy/test_predict.py:do_not_share_it"),
        ("if not path.exists():", "if True:", "deploy/test_predict.py:do_not_share_it"),
    ],
    "utils/deploy/prune.py": [
        ("opt.output and path.exists()", "False", "deploy/test_prune.py:what_is_wrong"),
        ("** (turn / turns)", "** turns", "deploy/test_prune.py:in_turns"),
        ('before is None or before.state != "finished"', "True", "deploy/test_prune.py:in_turns"),
        (
            '"resume": str(before.folder)} if before',
            '"resume": str(before.folder)} if False',
            "deploy/test_prune.py:in_turns",
        ),
    ],
    "utils/deploy/inputs.py": [("            yield PAUSE", "            pass", "deploy/test_predict.py:from_a_pipe")],
    "utils/deploy/sessions.py": [(', order="C")', ")", "deploy/test_sessions.py:other_libraries_say")],
    "utils/deploy/predictor.py": [
        ("return model.eval()", "return model", "deploy/test_predict.py:in_a_program"),
    ],
    "utils/deploy/proof.py": [
        ("if others[0].largest > LIMIT:", "if False:", "deploy/test_export.py:differs_is_refused"),
        ("if not loss <= LOSS or", "if", "deploy/test_export.py:differs_is_refused"),
    ],
    "utils/deploy/convert.py": [
        ('model"), Pooling():', 'model"):', "deploy/test_export.py:other_families"),
        ("side % out for side", "False for side", "deploy/test_export.py:other_families"),
    ],
    "data/coco/preparation.py": [
        ("torch.tensor([*fact, *fact])", "1", "deploy/test_predict.py:own_pixels"),
    ],
    "utils/train/step.py": [
        ("self.scaler.scale(loss * self.share)", "self.scaler.scale(loss)", "train/test_step.py:a_batch_in_parts"),
        ("value.detach().float() * self.share", "value.detach().float()", "train/test_step.py:the_reported_loss"),
        ("(skip > 0) | ~total.isfinite()", "skip", "train/test_step.py:a_loss_that_is_nan"),
        ("if self.clip_grad:", "if False:", "train/test_step.py:gradients_are_clipped"),
        ("torch.where(skip > 0, kept, buffer, out=buffer)", "pass", "train/test_step.py:a_step_that_is_not_finite"),
        ("self.scaler.load_state_dict(state)", "pass", "train/test_step.py:fp16_finds_its_scale"),
        ("reseed(self.device)", "pass", "watch/test_callbacks.py:draws_random_numbers"),
        ("Splitter(accumulate, least=2)", "Splitter(accumulate)", "train/test_memory.py:where_two_samples"),
    ],
    "utils/train/slimming.py": [
        ("scale.sign(), alpha=self.slim", "scale, alpha=self.slim", "train/test_slimming.py:the_penalty"),
    ],
    "utils/run/channels.py": [
        ("tensor.shape != shape(layer, tensor)", "True", "deploy/test_prune.py:resumed_to_the_same_bits"),
        ("second // groups", "second", "deploy/test_prune.py:computes_the_same"),
    ],
    "utils/deploy/card.py": [
        ('"best.pth" if last == epoch else', '"best.pth" if True else', "deploy/test_card.py:has_data_training"),
        (".startswith(MARK):", '.startswith(""):', "deploy/test_card.py:somebody_elses"),
    ],
    "utils/deploy/pruner.py": [
        ("max(ROUND, wanted)", "max(0, wanted)", "deploy/test_prune.py:fewer_than_8"),
        (
            "if not any(foreign(part.target.module, names) for part, _ in group)",
            "if True",
            "deploy/test_prune.py:kept_and_named",
        ),
    ],
    "utils/train/ema.py": [
        ("(1 + self.steps) / (10 + self.steps)", "torch.ones_like(self.steps)", "train/test_ema.py:formula"),
        ("effect = 1 - was_skipped", "effect = 1", "train/test_ema.py:a_step_without_effect"),
        ('self.steps.copy_(state["steps"])', "pass", "train/test_ema.py:a_resumed_run"),
        ("average.copy_(own)", "pass", "train/test_ema.py:formula"),
    ],
    "utils/train/device.py": [
        ('known.get("avx512_bf16") or known.get("amx_bf16")', "True", "train/test_device.py:what_is_asked_for"),
        (">= (7, 0)", ">= (9, 0)", "train/test_device.py:what_is_asked_for"),
        ("module.training = mode", "pass", "watch/test_model_summary.py:what_is_tried"),
        ("torch.random.fork_rng(sorted(devices)), ", "", "watch/test_model_summary.py:what_is_tried"),
    ],
    "utils/train/precision.py": [
        ("with undisturbed(model):", "if True:", "train/test_precision.py:leaves_weights"),
        ("copied = copy.deepcopy(model).train()", "copied = model", "train/test_precision.py:leaves_weights"),
        ("< GAIN * times", "< times", "train/test_precision.py:the_faster_precision"),
    ],
    "utils/train/muon.py": [
        ("factor @ square @ factor if", "factor @ square if", "models/test_optimizers.py:small_singular"),
    ],
    "utils/train/batch_size.py": [
        ("pace >= ENOUGH * max", "pace >= max", "train/test_batch_size.py:as_fast_as_any"),
        ("opt.lr if given else scaled", "opt.lr if False else scaled", "train/test_batch_size.py:asked_for_stays"),
        ("peak(step.device) > ROOM * room", "False", "train/test_batch_size.py:does_not_fit"),
        ("size / before, opt.optimizer)", "1, opt.optimizer)", "train/test_batch_size.py:made_for"),
    ],
    "utils/train/auto.py": [
        ('found += ["lr"] if', "found += [] if", "train/test_batch_size.py:all_folds_take"),
    ],
    "utils/train/measuring.py": [
        ("with undisturbed(copied):", "if True:", "train/test_batch_size.py:leaves_weights"),
        ("torch.get_num_threads()", "2", "train/test_precision.py:measured_once"),
    ],
    "utils/train/trial.py": [("run.epoch += 1", "pass", "train/test_trial.py:one_epoch_after")],
    "utils/search/find_lr.py": [
        ("SHARE * float(rates[", "float(rates[", "search/test_find_lr.py:a_tenth_of_the_best"),
        (".clip(max=ceiling(losses))", "", "search/test_find_lr.py:what_explodes_at_the_end"),
    ],
    "utils/train/sampler.py": [
        ("self.epoch, self.batch = epoch, batch", "self.epoch, self.batch = epoch, 0", "train/test_loader.py:order_is"),
        ("generator(self.seed, epoch,", "generator(self.seed, 0,", "train/test_loader.py:order_is"),
        ("rest < 2 * self.size and", "False and", "train/test_loader.py:a_lone_last_sample"),
        ("slice(self.rank, None, self.size)", "slice(None)", "train/test_loader.py:every_sample"),
        ('if state["names"] != self._names', "if False", "run/test_resume.py:other_pictures"),
        ("began != self._items:", "False:", "train/test_loader.py:other_values"),
    ],
    "utils/train/seeds.py": [
        ("_mix(seed, step, stream=3", "_mix(seed, 0, stream=3", "train/test_loader.py:randomness"),
        ("stream=2 + 3 * rank)", "stream=2)", "train/test_loader.py:randomness"),
    ],
    "utils/train/loader.py": [
        ("seed_step(sampler.seed, run.step,", "seed_step(sampler.seed, 0,", "train/test_loader.py:every_batch_has"),
        ("dataset.begin_epoch(run.done)", "pass", "train/test_loader.py:a_data_set_knows"),
    ],
    "utils/options/hints.py": [
        ("        if path is not None:", "        if False:", "options/test_hints.py:lies_below"),
    ],
    "utils/options/rules.py": [
        ("usual.warmup_epochs * opt.max_epoch / usual.max_epoch", "0.5", "train/test_schedule.py:a_presets_warm_up"),
    ],
    "utils/train/schedule.py": [
        ("(step + 1) / warmup_steps", "step / warmup_steps", "train/test_schedule.py:the_warm_up"),
        ("if loss > self.previous_loss", "if loss < self.previous_loss", "train/test_schedule.py:the_books_rule"),
        ("vars(self).update(state)", "pass", "train/test_schedule.py:a_run_stopped_anywhere"),
        ("* cycle_decay ** (progress * (cycles - 0.5))", "", "train/test_schedule.py:the_peaks"),
        ('initial * group["lr"] / scheduled if', "initial if", "train/test_schedule.py:a_rate_changed_by_hand"),
    ],
    "utils/train/reduce.py": [
        ("torch._foreach_mul_(means, count)", "pass", "train/test_step.py:statistics_that_no_process"),
    ],
    "utils/train/memory.py": [
        ("mem_get_info(device)[0] / 4", "mem_get_info(device)[0]", "train/test_evaluation.py:a_quarter"),
    ],
    "utils/train/workers.py": [
        ("return min(fitting, wanted)", "return wanted", "train/test_workers.py:as_many_workers"),
    ],
    "utils/train/optimizers.py": [
        ('"weight_decay": 0.0}', '"weight_decay": weight_decay}', "models/test_models.py:weights_decay"),
    ],
    "utils/files.py": [
        ("            os.fsync(file.fileno())\n", "", "test_files.py:flushed"),
        ("            keep_as(path, previous)", "            pass", "test_files.py:kept_under_another_name"),
        ("        flush_folder(path.parent)\n", "", "test_files.py:flushed"),
        ("not (path.is_file() or path.is_dir())", "False", "test_files.py:a_pipe_stays_one"),
        ("        if fcntl:\n", "        if False:\n", "test_files.py:a_locked_file"),
        ("found.st_mode & 0o077", "False", "steer/test_control.py:listens_to_nobody"),
    ],
    "utils/run/checkpoint_file.py": [
        ("found == TRAILER.unpack(end[-TRAILER.size :])[0]", "True", "run/test_checkpoint_file.py:every_flipped_byte"),
        (
            'torch.load(opened, map_location="cpu", weights_only=True)',
            'torch.load(opened, "cpu", weights_only=False)',
            "models/test_models.py:run_no_code",
        ),
        ("if not is_whole(file):", "if False:", "run/test_checkpoint_file.py:keeps_other_bytes"),
        ("not value.isfinite().all()", "False", "run/test_checkpoint.py:no_checkpoint_holds"),
        ("number > FORMAT", "False", "run/test_checkpoint_file.py:of_a_newer_hearth"),
        ('if "update" not in content', "if True", "run/test_checkpoint_file.py:a_run_of_an_older_hearth"),
    ],
    "utils/run/pretrained.py": [
        ("and found[0].name not in right", "and False", "run/test_pretrained.py:a_folder"),
    ],
    "utils/run/inert.py": [
        ("if not harmless:", "if False:", "run/test_inert.py:code_of_pythons"),
        ('"optim" not in key.lower()', "True", "run/test_weights.py:optimizers_are"),
    ],
    "utils/run/others.py": [
        ("if checksum and plain.is_file() and", "if plain.is_file() or", "run/test_others.py:torch_hubs_folder"),
    ],
    "utils/run/weights.py": [
        ("not average.search(one[1])", "True", "run/test_weights.py:the_average"),
        ("value.is_floating_point() or not own.is_floating_point()", "True", "run/test_weights.py:halves_become"),
        ("2 if fits(value, target) else 1", "1", "run/test_weights.py:of_two_models"),
    ],
    "utils/run/checkpoint.py": [
        (
            "if error is None or self.state.meters.reduce_late(position):",
            "if error is None or self.world.size == 1:",
            "train/test_processes.py:an_exception",
        ),
        ("value < best if self.monitor", "value > best if self.monitor", "run/test_resume.py:best_follows_the_monitor"),
        ("self.state.step.rollback()", "pass", "run/test_checkpoint.py:an_error_saves"),
        ("path.replace(self.last)", "pass", "run/test_checkpoint.py:a_damaged_checkpoint"),
        ('if content["run"]["step"] <= step', "if True", "run/test_checkpoint.py:going_back"),
        ("self._compare(self.run.step)", "pass", "run/test_checkpoint.py:processes_that_find"),
        ('self.run.mark("finished")', "pass", "run/test_trained.py:resume_auto"),
        ('save, folder / "best.pth"', 'self.model.save, folder / "best.pth"', "test_loop.py:every_part_gets"),
        ("[: -self.keep_last]", "[:0]", "test_loop.py:every_kth_epoch"),
    ],
    "utils/run/run.py": [
        ("if self.batch == 0:", "if True:", "train/test_loader.py:a_data_set_knows"),
        ('"steered", "done")', '"steered")', "run/test_resume.py:whose_pictures_grow"),
        ("if lock(self._lock):", "if True:", "run/test_resume.py:another_process_trains"),
        ("vars(self).update(state)", "pass", "run/test_checkpoint.py:the_middle"),
        (
            "in only or vars(self):",
            'in only or vars(self).keys() - {"optimizer"}:',
            "run/test_checkpoint.py:the_middle",
        ),
        ("in only or vars(self):", 'in only or vars(self).keys() - {"meters"}:', "run/test_checkpoint.py:the_middle"),
        ("in only or vars(self):", 'in only or vars(self).keys() - {"schedule"}:', "run/test_checkpoint.py:every_part"),
        ("in only or vars(self):", 'in only or vars(self).keys() - {"step"}:', "run/test_checkpoint.py:the_middle"),
    ],
    "utils/run/crash.py": [
        ("loader.batch_sampler.share(self.old.rank, self.old.processes)", "pass", "train/test_processes.py:exception"),
        ("self.checkpoint.writes = False", "pass", "run/test_crash.py:the_very_step"),
        (
            "stands[1] == failed.saved == failed.step + 1",
            "stands[1] == failed.saved",
            "run/test_crash.py:too_many_nan",
        ),
    ],
    "utils/run/failure.py": [
        ("isinstance(error, LostProcess) or", "", "train/test_processes.py:exception"),
    ],
    "utils/run/guard.py": [
        ("initial_lr=initial / 2", "initial_lr=initial", "run/test_guard.py:half_the_rate"),
        ("restore(first)", "restore(self.run.step)", "run/test_guard.py:a_rollback_is_to_before"),
        ("self.returns > MAX_ROLLBACKS", "False", "run/test_guard.py:after_three_rollbacks"),
        ("if self.ended == self.run.step:", "if False:", "run/test_guard.py:no_step_left"),
    ],
    "utils/run/signals.py": [
        ("and _typed and _typed.pop()", "and False", "steer/test_attach.py:after_the_prompt"),
        (
            'if program["loading"]:',
            "if False:",
            "run/test_signals.py:while_the_program_loads",
        ),
        (
            "if not self.ending and not typed:\n",
            "if not self.ending and not typed:\n            raise Stopped(128 + number)\n",
            "run/test_signals.py:in_a_notebook",
        ),
        (
            "signal.signal(number, ignore if kept else before or signal.SIG_DFL)",
            "pass",
            "run/test_signals.py:in_a_notebook",
        ),
    ],
    "utils/run/terminal.py": [
        ("if not self.ended and self.gone:", "if False:", "steer/test_attach.py:survives_the_callers_end"),
    ],
    "utils/run/debugger.py": [
        ("owner != os.getuid()", "False", "run/test_debugger.py:a_file_that_is_not_meant"),
        ("not stat.S_ISREG(mode)", "False", "run/test_debugger.py:a_file_that_is_not_meant"),
        ("elif found == self.before[path]:", "elif False:", "run/test_debugger.py:a_file_that_is_not_meant"),
    ],
    "utils/run/resume.py": [
        ("if len(free) > 1:", "if False:", "run/test_resume.py:newest_unfinished_run"),
        (
            "opt.assign(**{name: value for name, value in expected.items() if name not in opt.explicit})",
            "pass",
            "run/test_pretrained.py:a_training_takes run/test_pretrained.py:the_preparation_travels",
        ),
        (
            "start: dict[str, Any] = {name: content",
            "info = {}; start = {name: content",
            "steer/test_two_stages.py:the_body",
        ),
        ("in wanted and not kind.free", "in wanted and False", "run/test_resume.py:resume_refuses"),
        (
            "sorted(paths, key=written, reverse=True)",
            "sorted(paths, key=written)",
            "run/test_resume.py:newest_unfinished",
        ),
        ("if opt.max_epoch < started.max_epoch:", "if False:", "run/test_resume.py:resume_refuses"),
    ],
    "utils/run/preflight.py": [
        ("if free < need:", "if False:", "run/test_preflight.py:too_little_room"),
    ],
    "utils/run/record.py": [
        ("not one.exists() or mine(one))", "True)", "run/test_record.py:another_users_folder"),
        ('git("rev-parse", "HEAD")', 'git("rev-parse", "HEAD~1")', "run/test_record.py:the_commit_and_the_diff"),
        (
            "for part in (known, *added) if part",
            "for part in added if part",
            "run/test_record.py:the_commit_and_the_diff",
        ),
        ("if one.get(name) != other.get(name)", "if False", "run/test_record.py:changed_since"),
        ("    if seen:\n", "    if False:\n", "run/test_record.py:that_were_trained_on"),
        ('int(old["epoch"]) < row["epoch"]', "True", "run/test_record.py:an_epoch_that_is_repeated"),
    ],
    "utils/options/kinds.py": [
        ("if low <= number <= high:", "if True:", "test_cli.py:a_mistake_is_one_line"),
    ],
    "utils/options/options.py": [
        ("if self.command and self.command not in kind.commands:", "if False:", "test_cli.py:a_mistake_is_one_line"),
        ("values.get(str(given), given)", "given", "options/test_config.py:old_spelling"),
        ('(self.younger() if "config" in record else {}) | record', "record", "options/test_config.py:older_run"),
        (
            "opt.update(preset.preset_values())\n            opt.update(written)",
            "opt.update(written)\n            opt.update(preset.preset_values())",
            "options/test_config.py:a_file_can_start",
        ),
        ("for name in sorted(unread & {*names}):", "for name in ():", "test_cli.py:a_mistake"),
        (
            "self.assign(**{name: getattr(self.root()",
            "dict(**{name: getattr(self.root()",
            "run/test_checkpoint_file.py:todays",
        ),
        ("if kind.needs and", "if False and", "test_cli.py:a_mistake_is_one_line"),
        ("value != default and not wanted", "False", "test_cli.py:a_mistake_is_one_line"),
        ("wanted and value in (None, [])", "False", "test_cli.py:a_mistake_is_one_line"),
    ],
    "utils/watch/early_stopping.py": [
        ("{counted(waited, 'epoch')}", "{self.patience} epochs", "watch/test_early_stopping.py:true_number"),
        ('if int(row["epoch"]) <= self.run.epoch', "if False", "watch/test_early_stopping.py:resumed"),
        ("signed > best + min_delta", "signed > best", "watch/test_early_stopping.py:counted"),
    ],
    "utils/watch/tracker.py": [
        ("        self.size = size\n        self.flush()\n", "", "watch/test_trackers.py:other_programs"),
        ("if self.thread.is_alive():", "if False:", "watch/test_trackers.py:hangs_or_fails"),
        ("if self.sizes.empty():", "if True:", "watch/test_trackers.py:hangs_or_fails"),
    ],
    "utils/watch/clearml.py": [
        ("if written < self.points or not kept:", "if False:", "watch/test_trackers.py:lacks_points"),
    ],
    "utils/steer/channel.py": [
        ("found.st_uid == os.getuid() and", "True and", "steer/test_control.py:another_user"),
    ],
    "utils/steer/pane.py": [
        ('event.get("eid") != self.env or', "False or", "steer/test_pane.py:typed_into_the_pane"),
        ("            self._tell(str(error))", "            raise", "steer/test_pane.py:typed_into_the_pane"),
    ],
    "utils/steer/steering.py": [
        ("if self.run.batch == 0 and self.run.epoch ==", "if False and 0 ==", "steer/test_two_stages.py:the_body"),
        ("if [self.run.step, command] not in self.run.steered:", "if True:", "steer/test_two_stages.py:the_body"),
        ("if one[0] >= self.run.step", "if one[0] > 10**9", "steer/test_control.py:killed_run"),
        ("self.run.steered.append([self.run.step, command])", "pass", "steer/test_control.py:killed_run"),
    ],
    "utils/runs/prune.py": [
        ('if run.state != "running"', "if True", "runs/test_runs.py:running_one"),
        ("            if opt.yes:", "            if True:", "runs/test_runs.py:with_yes_alone"),
    ],
    "utils/train/launch.py": [
        ('os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)', "pass", "train/test_launch.py:the_chosen_gpus"),
        ("count = len(chosen)", "pass", "train/test_launch.py:the_chosen_gpus"),
        ("(os.cpu_count() or 1) // count", "os.cpu_count() or 1", "train/test_launch.py:the_chosen_gpus"),
        ("else 128 - failure.exitcode", "else 1", "train/test_launch.py:ends_as_its_processes"),
        ("sys.exit(128 + error.sigval)", "pass", "train/test_launch.py:ends_as_its_processes"),
    ],
    "utils/watch/history.py": [
        ("if name not in known and not", "if not", "watch/test_history.py:callbacks_plot"),
        ("if self.run.step == 1:", "if False:", "watch/test_page.py:from_the_first_step_on"),
        ("if old.stem not in names:", "if False:", "watch/test_history.py:fewer_pictures"),
        ("except Exception as error:", "except KeyError as error:", "watch/test_history.py:that_fails"),
    ],
    "utils/watch/page.py": [
        ("key=lambda path: path.stat().st_mtime_ns, reverse=True", "", "watch/test_page.py:the_newest_pictures"),
        ("if path.exists() and MARK not in", "if False and MARK not in", "watch/test_page.py:that_is_not_hearths"),
        ("escape(rounded(str(cell)))", "rounded(str(cell))", "watch/test_page.py:names_are_no_html"),
        ("        write_page(above)\n", "        pass\n", "watch/test_page.py:the_one_of_the_run_links"),
    ],
    "utils/watch/progress.py": [
        ("self._seen() - self.bar.n", "self._seen()", "watch/test_progress.py:counted"),
    ],
    "utils/metrics/iou_meter.py": [
        ("matrix.sum(axis=1) - matrix.diagonal()", "matrix.sum(axis=1)", "metrics/test_iou_meter.py:by_hand"),
        ("labelled.long().flatten()", "torch.ones_like(cells).flatten()", "metrics/test_iou_meter.py:scikit"),
    ],
    "utils/metrics/meters.py": [
        ("torch.where(lost, (target + 1) % self.k, label)", "label", "metrics/test_meters.py:a_prediction_that_is_nan"),
        ("or vars(self.scores).copy", "or dict", "metrics/test_meters.py:may_leave_out"),
        ("or {}), **losses}", "or {})}", "metrics/test_meters.py:may_leave_out"),
        ("value * samples if finite", "value if finite", "metrics/test_meters.py:weighs_batches"),
        ('apart**2 * self.n * state["n"] / total', "0", "metrics/test_meters.py:merged_losses"),
    ],
    "utils/metrics/class_meter.py": [
        ('state["sums"]["mistakes"][:, 0] += self.seen', "pass", "metrics/test_meters.py:merged_meters"),
    ],
    "utils/metrics/cam.py": [
        (
            "slope.float().mean(dim=(2, 3), keepdim=True)",
            "slope.float().abs().mean(dim=(2, 3), keepdim=True)",
            "metrics/test_reports.py:activation_maps",
        ),
    ],
    "utils/metrics/fonts.py": [
        ("ord(letter) in letters(font.fname)), None)", "False), None)", "metrics/test_fonts.py:is_found_and_used"),
        ('"unicode_escape"', '"ascii", "ignore"', "metrics/test_fonts.py:names_are_escapes"),
    ],
    "utils/visdom/follow.py": [
        ('file.read().rpartition(b"\\n")', '(file.read(), b"", b"")', "visdom/test_follow.py:an_unfinished_line"),
        ("if record.in_training():", "if False:", "visdom/test_follow.py:a_live_training_draws"),
        ("key=lambda record: record.started)", "key=str)", "visdom/test_follow.py:default_shows_the_newest"),
        (
            "screen.draw_record(screen.drawn, record.size)",
            "screen.draw_record(0, record.size)",
            "visdom/test_follow.py:only_what_was_added",
        ),
    ],
    "utils/visdom/server.py": [
        ('args.port, "127.0.0.1"', 'args.port, "0.0.0.0"', "visdom/test_visualizer.py:loopback"),
    ],
    "data/build.py": [
        ("elif classes and list(dataset.classes) != classes", "elif False", "test_loop.py:of_other_classes"),
    ],
    "data/broken.py": [
        ("len(broken) > BROKEN_SHARE * total", "False", "data/test_dogcat.py:more_than_5_percent"),
        ("    if lost:\n", "    if False:\n", "data/test_image_folder.py:a_class_without_a_picture"),
    ],
    "data/image_folder.py": [
        ("refuse_parts(root, inside)\n        found", "found", "data/test_image_folder.py:a_folder_that_is_none"),
    ],
    "data/pictures/table.py": [
        ("len(set(cells[column])) == len(cells[column])", "True", "data/test_table.py:labels_that_are_names"),
    ],
    "data/dogcat.py": [
        ("    if others:\n", "    if False:\n", "data/test_dogcat.py:every_suffix"),
        ("key=lambda one: one.target)", "key=lambda one: one.name)", "data/test_dogcat.py:ids_in_numerical_order"),
    ],
    "data/cifar10.py": [
        (
            'ArraysOnly(file, encoding="latin1")',
            'pickle.Unpickler(file, encoding="latin1")',
            "data/test_cifar10.py:a_pickle",
        ),
        ("md5=MD5", "md5=None", "data/test_cifar10.py:published_sum"),
    ],
    "data/pictures/folds.py": [
        ("(one == fold) == (mode", "(one != fold) == (mode", "data/test_folds.py:validates_once"),
        (
            "        for number in members[group]:\n",
            "        for number in members[group][:1]:\n",
            "data/test_folds.py:groups_of",
        ),
        ("len(kept) < folds or", "", "data/test_folds.py:cannot_be_divided"),
    ],
    "utils/search/folds.py": [
        ('if run and read_run(run).state == "finished"', "if run", "search/test_fold_training.py:resumed_as_a_whole"),
        ("(folder / OUT_OF_FOLD).unlink(missing_ok=True)", "pass", "search/test_fold_training.py:no_mean_while"),
    ],
    "utils/run/members.py": [
        ('given.command == "val" and apart', "False", "search/test_fold_training.py:validate_on_other"),
        ("(begun(one[0]), one[1])", "one[1]", "search/test_fold_training.py:its_oldest_run"),
    ],
    "models/ensemble.py": [
        ("mirrored.flip(-1) if", "mirrored if", "models/test_ensemble.py:masks_mirrored_back"),
        ("resized(view, size) for", "view for", "models/test_ensemble.py:in_its_own_size"),
        ("sizes.index(max(sizes))", "0", "models/test_ensemble.py:of_several_sizes"),
        ("with member.autocast():", "if True:", "models/test_ensemble.py:its_own_precision"),
    ],
    "data/pictures/split.py": [
        ("TRAIN_SHARE = 0.7", "TRAIN_SHARE = 0.6", "data/test_split.py:the_share_follows"),
        ("sample.name.lower()", "str(sample.path)", "data/test_dogcat.py:depends_on_names_alone"),
        ('"mean": lambda n: 1.0', '"mean": lambda n: n', "data/test_labelled.py:classes_of_10"),
    ],
    "data/pictures/picture_set.py": [
        ("sum(counts) / count for", "1.0 for", "data/test_labelled.py:class_weights_are"),
    ],
    "data/pictures/labelled.py": [
        ("min(max(share, NEVER_CERTAIN), 1 - NEVER_CERTAIN)", "share", "data/test_dogcat.py:kaggles_csv"),
        ("for id in self.ids:", "for id in rows:", "data/test_dogcat.py:kaggles_csv"),
    ],
    "data/pictures/pack.py": [
        ("zlib.crc32(images[[one[0]]].numpy().data) == one[1]", "True", "data/test_pack.py:a_damaged_pack"),
        ("{status.st_size} {status.st_mtime_ns}\\0", "0", "data/test_pack.py:changed_sources"),
        ("size > DISK_SHARE * free", "False", "data/test_pack.py:more_than_half"),
        ("map(readable, ", "map(set().__contains__, ", "data/test_pack.py:the_system_does_not_give"),
        ('index["decoders"] != decoders()', "False", "data/test_pack.py:when_a_decoder_is_installed"),
    ],
    "data/pictures/augment.py": [
        ("uniform[4] < self.flip", "uniform[4] < 0.5", "data/test_augment.py:flips_are"),
        ("int(done * len(self.sizes))", "0", "data/test_augment.py:grow_in_equal_shares"),
        ("(2 * uniform[5] - 1)", "uniform[5]", "data/test_augment.py:colors_and_angles"),
        ("* uniform[6:9]))", "* uniform[6:7].expand(3, -1)))", "data/test_augment.py:colors_and_angles"),
        ("uniform[4] < probability", "uniform[4] < 0.5", "data/test_augment.py:erased_is"),
        (
            "(area[1] - area[0]) * uniform[0]",
            "(area[1] - area[0]) * uniform[0] ** 2",
            "data/test_augment.py:boxes_are_spread",
        ),
        ("* uniform[1]).exp()", "* uniform[0]).exp()", "data/test_augment.py:boxes_are_spread"),
        ("(uniform[2] * (height + 1 - h))", "(uniform[3] * (height + 1 - h))", "data/test_augment.py:boxes_are_spread"),
        ("value=deviation", "value=1.0", "data/test_augment.py:noise_has"),
        ("torch.lerp(labels.roll(1, 0), labels, part)", "labels", "data/test_augment.py:mixup_is"),
        ("torch.full((n,), alpha,", "torch.full((n,), 1.0,", "data/test_augment.py:shares_are"),
        ("0.5 * (1 - kept).sqrt()", "0.5 * (1 - kept)", "data/test_augment.py:cutmix_is"),
        ("uniform[0].view(-1, 1, 1, 1) < 0.5", "uniform[0].view(-1, 1, 1, 1) < 1", "data/test_augment.py:mixed_by"),
        (
            "self.random_erasing, uniform[9:])",
            "self.random_erasing, uniform[:5])",
            "data/test_augment.py:its_own_draws",
        ),
        ("cut_boxes(uniform[1:], kept,", "cut_boxes(uniform[:2], kept,", "data/test_augment.py:its_own_draws"),
        ("(uniform[3] * (width + 1 - w))", "(uniform[2] * (width + 1 - w))", "data/test_augment.py:boxes_are_spread"),
    ],
    "data/coco/data_set.py": [
        ("width - x2, y1", "x1, y1", "data/test_coco.py:flips_everything"),
    ],
    "data/coco/keypoints.py": [
        ("[:, self.swapped]", "", "data/test_coco_keypoints.py:left_and_right"),
        ('num_keypoints": sum(v > 0', 'num_keypoints": sum(v > 9', "data/test_coco_keypoints.py:perfect_points"),
    ],
    "data/coco/find.py": [
        ("if len(best) > 1:", "if len(best) > 2:", "data/test_coco_exports.py:never_guessed"),
    ],
    "data/voc.py": [
        ("x2 - x1 + 1, y2", "x2 - x1, y2", "data/test_voc.py:boxes_and_classes"),
        (
            "parser.EntityDeclHandler = start, text, refuse",
            "parser.ExternalEntityRefHandler = start, text, refuse",
            "data/test_voc.py:bad_xml_file",
        ),
    ],
    "data/yolo.py": [
        ("[x - w / 2, y - h / 2, w, h]", "[x, y, w, h]", "data/test_yolo.py:boxes_and_polygons"),
    ],
    "data/coco/exports.py": [("if keys <= one.keys()", "if False", "data/test_other_exports.py:another_tools_file")],
    "data/coco/stored.py": [
        ('for way in [exif] if exif != "auto" else', "for way in", "data/test_coco_exports.py:size_does_not_tell"),
        ("6: (1,), 7", "6: (0,), 7", "data/test_coco_exports.py:as_pillow_turns"),
    ],
    "data/coco/categories.py": [
        ("else by_name.get(name)", "else label", "data/test_coco_exports.py:come_back_in_results"),
    ],
    "data/coco/meter.py": [
        ("judge.computeIoU = functools.partial(overlaps, judge)", "pass", "data/test_voc.py:difficult_objects"),
        ("np.maximum.accumulate(precision[::-1])[::-1]", "precision", "data/test_coco.py:voc_average"),
    ],
    "models/losses.py": [
        ("torch.expm1(-entropy) ** 2", "-torch.expm1(-entropy)", "models/test_losses.py:over_classes"),
        ("IGNORED if score.ndim == 4 else NEVER", "IGNORED", "models/test_losses.py:class_255"),
        ("[target.where(counts, 0)] * counts", "[target.where(counts, 0)]", "models/test_losses.py:over_classes"),
        ("losses.where(sound, torch.nan)", "losses", "models/test_losses.py:scores_that_are_nan"),
        (
            "is None and not pixels:",
            "is None or True:",
            "test_loop.py:the_batch_size",
        ),
        ("and not pixels:", ":", "models/test_losses.py:parts_of_a_batch"),
        ("factor * self.losses[name]", "self.losses[name]", "models/test_losses.py:a_criterion_is"),
    ],
    "models/basic_module.py": [
        ("part.training = False", "pass", "models/test_models.py:fine_tuning_changes"),
    ],
    "models/backbone.py": [
        ("x = x * factor + shift", "pass", "models/test_features.py:pictures_are_prepared"),
    ],
    "models/features.py": [
        ("if versions != self.versions:", "if not self.versions:", "models/test_features.py:a_frozen_body_looks"),
        ("value.is_inference()", "True", "models/test_features.py:a_frozen_body_looks"),
        ("digest.update(name.encode() + ", "print(name.encode() + ", "models/test_features.py:one_body_look"),
        ("other.shared = False", "pass", "models/test_features.py:a_copy_looks"),
        ("held + row.nbytes < ROOM", "True", "models/test_features.py:a_copy_looks"),
        (", eval_mode(self.net)", "", "models/test_features.py:a_frozen_body_looks"),
        ("torch.equal(head(inputs[0]), score)", "True", "models/test_features.py:a_network_that_does"),
    ],
    "models/detector.py": [
        ("one.float() if one.is_floating_point() else one", "one", "models/test_detectors.py:boxes_keep"),
    ],
    "data/pictures/mask_arrays.py": [
        ("np.load(path, allow_pickle=False)", "np.load(path, allow_pickle=True)", "data/test_mask_arrays.py:no_pickle"),
    ],
    "data/pictures/read.py": [
        (
            '" ".join([read.__name__, *map(str, changed.values())])',
            "read.__name__",
            "data/test_labelled.py:weights_expect",
        ),
        ("if turn is None else file.transpose(turn)", "", "data/test_read.py:any_picture_is_read_as_upright"),
        ("values = np.where(known, values, 0)", "pass", "data/test_read.py:float_pixels_without_data"),
        (
            "width * size[0] / size[1]",
            "width",
            "data/test_rectangles.py:takes_the_middle data/test_labelled.py:weights_expect",
        ),
    ],
    "data/mask_folder.py": [
        ("self.covered(probability, one)", "probability", "data/test_fit.py:that_test_writes"),
    ],
    "data/pictures/masks.py": [
        ("np.full(size, UNLABELLED,", "np.full(size, 0,", "data/test_fit.py:lie_in_the_middle"),
        ("Image.Resampling.NEAREST", "Image.Resampling.BILINEAR", "data/test_mask_folder.py:between_two"),
        (">= max(width, height)", ">= width * height", "data/test_mask_reading.py:another_size"),
    ],
    "data/pictures/mask_reading.py": [
        ("values[UNLABELLED] = 1", "pass", "data/test_mask_reading.py:however_they_are_saved"),
        ("np.arange(256) >= 128", "np.arange(256) >= 1", "data/test_mask_reading.py:however_they_are_saved"),
        ("values[len(classes) : len(names)]", "values[:0]", "data/test_mask_reading.py:called_void"),
    ],
    "data/pictures/mask_pairs.py": [
        ("names.get(mask, mask)", "mask", "data/test_mask_pairs.py:find_their_masks"),
    ],
    "data/coco/format.py": [
        ("[x1, y1, x2 - x1, y2 - y1]", "[x1, y1, x2, y2]", "data/test_coco.py:perfect_detections"),
    ],
    "utils/cli.py": [
        ("    sys.exit(2)\n", "    sys.exit(1)\n", "test_cli.py:a_mistake_is"),
    ],
    "utils/search/study.py": [
        ("if frozen.state != optuna.trial.TrialState.RUNNING:", "if False:", "search/test_sweep.py:ended_meanwhile"),
        ("not inside or not folder.is_dir()", "not folder.is_dir()", "search/test_sweep.py:ended_meanwhile"),
        ('frozen.user_attrs.get("place") == where.place()', "True", "search/test_sweep.py:that_is_gone"),
        ("if not lock(holder) or in_training(folder):", "if False:", "search/test_sweep.py:that_is_gone"),
        ("if order(trials, frozen) >= wanted:", "if False:", "search/test_sweep.py:of_two_machines"),
    ],
    "utils/search/worker.py": [
        ("partial(unused, rest)", "lambda trials: rest[0] if rest else None", "search/test_sweep.py:trials_grow"),
        ('if "pruned" in trial.user_attrs:', "if False:", "search/test_sweep.py:behind_its_run"),
        ("and has(one, found.trial.params)", "and False", "search/test_sweep.py:no_trial_repeats"),
    ],
    "utils/doctor/case.py": [
        ("yield copy.deepcopy(self.model).train()", "yield self.model", "doctor/test_doctor_models.py:nothing_of_it"),
        ("with torch.random.fork_rng(devices):", "if True:", "doctor/test_doctor_models.py:nothing_of_it_changes"),
    ],
    "utils/doctor/command.py": [
        ("        sys.exit(1)\n", "        pass\n", "doctor/test_doctor.py:ends_with_1"),
    ],
    "utils/doctor/content.py": [
        ("agree.tril(start - 1)", "agree.tril(start)", "doctor/test_doctor_data.py:broken_data_get"),
    ],
    "utils/doctor/model.py": [
        ("if one.grad is None]", "if False]", "doctor/test_doctor_models.py:a_broken_model"),
    ],
}
