"""Bad input: exit status 2, one line that names the flag or the file, and nothing written."""

import json
import pickle
import shutil

import pytest
import torch
from helpers import FAKES, ROOT, Malicious, run_script

DIGITS = "--preset digits --device cpu"
# Script, flags, and what the message must name.
CASES = [
    # train.py: values
    ("train.py", "--epochs 0", "--epochs"),
    ("train.py", "--epochs many", "--epochs"),
    ("train.py", "--epochs", "--epochs"),
    ("train.py", "--batch_size 1", "--batch_size"),
    ("train.py", f"{DIGITS} --batch_size 100000", "--batch_size"),
    ("train.py", "--lr 0", "--lr"),
    ("train.py", "--lr -1", "--lr"),
    ("train.py", "--lr nan", "--lr"),
    ("train.py", "--lr inf", "--lr"),
    ("train.py", "--momentum 1", "--momentum"),
    ("train.py", "--nesterov True --momentum 0", "--nesterov"),
    ("train.py", "--nesterov perhaps", "--nesterov"),
    ("train.py", "--weight_decay -0.1", "--weight_decay"),
    ("train.py", "--validation_fraction 1", "--validation_fraction"),
    ("train.py", f"{DIGITS} --validation_fraction 0.0001", "--validation_fraction"),
    ("train.py", "--image_size 8", "--image_size"),
    ("train.py", "--max_steps 0", "--max_steps"),
    ("train.py", "--label_smoothing 1.5", "--label_smoothing"),
    ("train.py", "--loss focal --label_smoothing 0.1", "--label_smoothing"),
    ("train.py", "--warmup_epochs 9 --epochs 5", "--warmup_epochs"),
    ("train.py", "--mixup_alpha -1", "--mixup_alpha"),
    ("train.py", "--cutmix_alpha nan", "--cutmix_alpha"),
    ("train.py", "--ema_decay 1", "--ema_decay"),
    ("train.py", "--progressive_from 300", "--progressive_from"),
    ("train.py", "--seed -1", "--seed"),
    ("train.py", "--log_every 0", "--log_every"),
    ("train.py", "--checkpoint_every -5", "--checkpoint_every"),
    ("train.py", "--model vgg16", "--model"),
    ("train.py", "--preset fast", "--preset"),
    ("train.py", "--schedule linear", "--schedule"),
    ("train.py", "--learning_rate 0.1", "--learning_rate"),
    ("train.py", f"{DIGITS} extra", "extra"),
    ("train.py", "--preset digits --device tpu", "--device"),
    ("train.py", "--preset digits --device cuda:99", "--device"),
    ("train.py", "--preset digits --device cpu --amp bf16 --image_size 16", "--amp"),
    # train.py: places and files
    ("train.py", f"{DIGITS} --run_id ../escape", "--run_id"),
    ("train.py", f"{DIGITS} --run_id .hidden", "--run_id"),
    ("train.py", f"{DIGITS} --run_id a/b", "--run_id"),
    ("train.py", f"{DIGITS} --run_id good", "--run_id"),
    ("train.py", f"{DIGITS} --runs_dir words.txt", "--runs_dir"),
    ("train.py", "--dataset folder", "--data_dir"),
    ("train.py", "--dataset folder --data_dir nowhere", "nowhere"),
    ("train.py", f"{DIGITS} --weights nowhere.pth", "nowhere.pth"),
    ("train.py", f"{DIGITS} --weights words.pth", "words.pth"),
    ("train.py", f"{DIGITS} --weights malicious.pth", "malicious.pth"),
    ("train.py", f"{DIGITS} --weights cut.safetensors", "cut.safetensors"),
    ("train.py", f"{DIGITS} --weights other.pth", "other.pth"),
    ("train.py", f"{DIGITS} --weights IMAGENET", "--weights"),
    # train.py: going on
    ("train.py", "--resume nowhere", "--resume"),
    ("train.py", "--resume", "--resume"),
    ("train.py", "--resume good --lr 0.5", "--lr"),
    ("train.py", "--resume good --seed 1 --batch_size 8", "--batch_size"),
    ("train.py", "--resume bent", "config.yaml"),
    ("train.py", "--resume damaged", "last.pt"),
    ("train.py", "--resume hostile", "last.pt"),
    ("train.py", "--resume stateless", "last.pt"),
    # train.py: seeds
    ("train.py", f"{DIGITS} --seeds 0", "--seeds"),
    ("train.py", "--resume good --seeds 3", "--seeds"),
    ("train.py", f"{DIGITS} --seeds 2 --run_id good", "--run_id"),
    ("train.py", f"{DIGITS} --seeds 2 --run_id a/b", "--run_id"),
    ("train.py", f"{DIGITS} --seeds 2 --seed 2147483647", "--seed"),
    ("train.py", f"{DIGITS} --seeds 2 --runs_dir words.txt", "--runs_dir"),
    # export.py
    ("export.py", "nowhere --format hub", "nowhere"),
    ("export.py", "cut.safetensors --format hub", "cut.safetensors"),
    ("export.py", "--format tflite", "--format"),
    ("export.py", "--format hub --preprocessing True", "--preprocessing"),
    ("export.py", "--tolerance 0", "--tolerance"),
    ("export.py", "--temperature -1", "--temperature"),
    # evaluate.py
    ("evaluate.py", "--checkpoint nowhere", "--checkpoint"),
    ("evaluate.py", "--checkpoint words.pth", "words.pth"),
    ("evaluate.py", "--checkpoint cut.safetensors", "cut.safetensors"),
    ("evaluate.py", "--checkpoint flipped.safetensors", "flipped.safetensors"),
    ("evaluate.py", "--checkpoint malicious.pth", "malicious.pth"),
    ("evaluate.py", "--checkpoint good --compare nowhere", "--compare"),
    ("evaluate.py", "--checkpoint good --compare good", "good"),
    ("evaluate.py", "--checkpoint good --batch_size 0", "--batch_size"),
    ("evaluate.py", "--checkpoint good --split train", "--split"),
    ("evaluate.py", "--checkpoint good --device tpu", "--device"),
    ("evaluate.py", "--checkpoint good --tta flip", "--tta"),
    ("evaluate.py", "--checkpoint good --tta crop", "--tta"),
    ("evaluate.py", "--checkpoint good --dataset folder --data_dir nowhere", "nowhere"),
    ("evaluate.py", "--runs_dir nowhere", "nowhere"),
    # compare.py
    ("compare.py", "good", "Missing"),
    ("compare.py", "good nowhere", "nowhere"),
    ("compare.py", "good good", "good"),
    ("compare.py", "good bent", "config.yaml"),
    ("compare.py", "good damaged", "evaluate.py --checkpoint good"),
    # visualize.py
    ("visualize.py", "--checkpoint nowhere", "--checkpoint"),
    ("visualize.py", "--checkpoint good --count 0", "--count"),
    ("visualize.py", "--checkpoint good --which best", "--which"),
    ("visualize.py", "--checkpoint good --images nowhere.jpg", "nowhere.jpg"),
    ("visualize.py", "--checkpoint good --images words.txt", "words.txt"),
    ("visualize.py", "--checkpoint cut.safetensors", "cut.safetensors"),
    ("visualize.py", "--checkpoint good --seed -1", "--seed"),
    # predict.py
    ("predict.py", "", "nothing to predict"),
    ("predict.py", "--checkpoint good", "nothing to predict"),
    ("predict.py", "nowhere.jpg", "nowhere.jpg"),
    ("predict.py", "no*where.jpg", "no*where.jpg"),
    ("predict.py", "words.txt --checkpoint nowhere", "--checkpoint"),
    ("predict.py", "words.txt --checkpoint cut.safetensors", "cut.safetensors"),
    ("predict.py", "words.txt --checkpoint good --output words.txt", "--output"),
    ("predict.py", "words.txt --checkpoint good --output words.txt/table.csv", "--output"),
    ("predict.py", "words.txt --overwrite True --resume True", "--overwrite"),
    ("predict.py", "words.txt --overwrite maybe", "--overwrite"),
    ("predict.py", "words.txt --checkpoint good --min_accuracy 0.9", "--min_accuracy"),
    ("predict.py", "words.txt --min_accuracy 95", "--min_accuracy"),
    ("predict.py", "words.txt --checkpoint good --tta flip", "--tta"),
    ("predict.py", "words.txt --top 0", "--top"),
    ("predict.py", "words.txt --batch_size 0", "--batch_size"),
    ("predict.py", "words.txt --checkpoint good --device tpu", "--device"),
    # soup.py
    ("soup.py", "", "two runs or more"),
    ("soup.py", "good", "two runs or more"),
    ("soup.py", "good good", "given twice"),
    ("soup.py", "good nowhere", "nowhere"),
    ("soup.py", "good bent", "config.yaml"),
    ("soup.py", "good damaged --run_id ../out", "--run_id"),
    ("soup.py", "good damaged --run_id hostile", "--run_id"),
    ("soup.py", "good damaged --batch_size 0", "--batch_size"),
    ("soup.py", "good damaged --device tpu", "--device"),
    ("soup.py", "good damaged --runs_dir words.txt", "words.txt"),
    # sweep.py
    ("sweep.py", "nowhere.yaml", "nowhere.yaml"),
    ("sweep.py", "words.txt", "words.txt"),
    ("sweep.py", "torn.yaml", "torn.yaml"),
    ("sweep.py", "unknown.yaml --count 1", "learning_rate"),
    ("sweep.py", "endless.yaml", "--count"),
    ("sweep.py", "endless.yaml --count 0", "--count"),
    ("sweep.py", "endless.yaml --count 1 --workers 0", "--workers"),
    ("sweep.py", "endless.yaml --count 1 --sweep_id ../out", "--sweep_id"),
    ("sweep.py", "endless.yaml --count 1 --runs_dir words.txt", "--runs_dir"),
    # dashboard.py
    ("dashboard.py", "--output words.txt", "words.txt"),
    ("dashboard.py", "--output nowhere/page.html", "nowhere"),
    ("dashboard.py", "--runs_dir nowhere", "nowhere"),
    ("dashboard.py", "--runs_dir words.txt", "words.txt"),
    ("dashboard.py", "--watch sometimes", "--watch"),
    # sync.py
    ("sync.py", "nowhere", "nowhere"),
    ("sync.py", "--runs_dir nowhere", "--runs_dir"),
    ("sync.py", "good", "WANDB_API_KEY"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one whole run, `good`, and whatever a case above needs that is broken."""
    folder = tmp_path_factory.mktemp("bad")
    few = ("--preset", "digits", "--device", "cpu", "--max_steps", 1, "--batch_size", 16, "--run_id", "good")
    run_script("train.py", *few, cwd=folder)
    good = folder / "runs" / "good"
    for name in ("bent", "damaged", "hostile", "stateless"):
        shutil.copytree(good, folder / "runs" / name)
    (folder / "runs" / "bent" / "config.yaml").write_text("epochs: [1\n")
    state = (good / "checkpoints" / "last.pt").read_bytes()
    (folder / "runs" / "damaged" / "checkpoints" / "last.pt").write_bytes(state[: len(state) // 2])
    torch.save({"model": Malicious(folder / "hostile")}, folder / "runs" / "hostile" / "checkpoints" / "last.pt")
    (folder / "runs" / "stateless" / "checkpoints" / "last.pt").unlink()

    weights = (good / "checkpoints" / "best.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(weights[: len(weights) // 2])
    flipped = bytearray(weights)
    flipped[-100] ^= 1
    (folder / "flipped.safetensors").write_bytes(flipped)
    (folder / "malicious.pth").write_bytes(pickle.dumps(Malicious(folder / "unpickled")))
    torch.save({"conv1.weight": torch.zeros(3, 3)}, folder / "other.pth")
    for name in ("words.txt", "words.pth"):
        (folder / name).write_text("Neither weights nor a photo.\n")
    head = f"program: {ROOT / 'train.py'}\nmethod: random\nmetric: {{name: validation/accuracy, goal: maximize}}\nparameters:\n"
    (folder / "torn.yaml").write_text(head + "  lr: {min: 0.1")
    (folder / "unknown.yaml").write_text(head + "  learning_rate: {min: 0.1, max: 0.2}\n")
    (folder / "endless.yaml").write_text(head + "  lr: {min: 0.1, max: 0.2}\n")
    return folder


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    """What each case ended with: status, stdout, stderr, and the files that it made or removed."""
    cases = tmp_path_factory.mktemp("cases") / "cases.json"
    cases.write_text(json.dumps([(script, flags.split()) for script, flags, _ in CASES]))
    done = run_script(str(FAKES / "one_process.py"), ROOT, cases, cwd=folder)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{script} {flags}" for script, flags, _ in CASES])
def test_bad_input_is_refused_with_one_line_and_nothing_written(results, number):
    (_, _, named), (status, out, err, changed) = CASES[number], results[number]
    assert status == 2, out + err
    assert named in err and "Traceback" not in err + out, err
    one_line = err.startswith("error: ") and err.count("\n") == 1
    assert one_line or "For full helptext" in err, err  # tyro's box, which wraps its lines
    assert changed == []


@pytest.mark.parametrize(
    "script, flags, named",
    [
        ("train.py", ("--preset", "digits", "--run_id", "../escape"), "--run_id"),
        ("sweep.py", ("words.txt",), "words.txt"),
    ],
)
def test_a_real_process_says_the_same(folder, script, flags, named):
    before = sorted(folder.rglob("*"))
    done = run_script(script, *flags, cwd=folder, status=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and named in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_nothing_that_was_refused_was_executed(folder, results):
    assert not (folder / "unpickled").exists() and not (folder / "hostile").exists()
