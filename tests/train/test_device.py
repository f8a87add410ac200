"""The device that computes: which precision it is given, and GPUs that this torch has no code for."""

import torch

from utils.train.device import has_gpu, pick_precision, to_device


def test_what_is_asked_for_is_taken_and_auto_is_what_the_machine_is_fast_in(monkeypatch):
    cpu = torch.device("cpu")
    assert [pick_precision(name, cpu) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    for known, expected in (({}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert pick_precision("auto", cpu) == expected
    for bf16, capability, expected in ((True, (8, 0), "bf16"), (False, (7, 0), "fp16"), (False, (6, 1), "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, found=bf16: found)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert pick_precision("auto", torch.device("cuda")) == expected


def test_a_gpu_that_this_torch_has_no_code_for_is_left_alone_with_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GeForce GTX 1080")
    built_for = ["sm_75", "sm_80", "sm_90a", "sm_120", "compute_120"]
    for capability, expected in (((6, 1), False), ((7, 5), True), ((8, 9), True), ((9, 0), True), ((13, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
        assert has_gpu.__wrapped__() is expected
        warned = capsys.readouterr().err
        assert ("GeForce GTX 1080 (compute capability 6.1)" in warned) is not expected
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx942"])  # AMD's
        assert has_gpu.__wrapped__() is True and not capsys.readouterr().err


def test_whatever_a_batch_is_made_of_its_tensors_move():
    batch = to_device(({"image": torch.ones(1)}, [torch.ones(2), "name"]), torch.device("meta"))
    assert batch[0]["image"].device.type == batch[1][0].device.type == "meta" and batch[1][1] == "name"
