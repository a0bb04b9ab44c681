"""Runs steps of the authors' PyTorch networks on command.

`run.py` starts it; it needs only PyTorch. Commands are lines on stdin. The answer to `train 5` and `infer 5` is the
seconds that one of five took, to `peak` the peak gigabytes of PyTorch's arrays on the GPU since the last `peak`. The
step is the authors' own: the sum of their losses, and Adam.
"""

import argparse
import json
import pathlib
import sys
import time

import torch
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--mtan", type=pathlib.Path)
parser.add_argument("--reference", help="tests/reference, which loads the authors' classes")
parser.add_argument("--network")
parser.add_argument("--height", type=int)
parser.add_argument("--width", type=int)
parser.add_argument("--channels", type=float, default=1.0, help="factor on the channels of SegNet's layers")
parser.add_argument("--rows", type=int)
parser.add_argument("--threads", type=int)
parser.add_argument("--device", default="cpu")
parser.add_argument("--precision", default="float32", help="float32, tf32, or bfloat16 by autocast")
parser.add_argument(
    "--layout", default="contiguous_format", help="memory format of images and weights, or channels_last"
)
parser.add_argument("--program", default="eager", help="eager, or compiled: the network by torch.compile")
arguments = parser.parse_args()
sys.path.insert(0, arguments.reference)
torch.set_num_threads(arguments.threads)
torch.manual_seed(0)
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arguments.precision != "float32"
device, memory_format = torch.device(arguments.device), getattr(torch, arguments.layout)

from authors import resnet_mtan_class, segnet_class  # noqa: E402

RESNET = {
    "resnet.py": {"from torchvision.models.utils import load_state_dict_from_url": ""},
    "resnet_dilated.py": {},
    "aspp.py": {},
    "resnet_mtan.py": {"(pretrained=True)": "()"},
}
FILTERS = [64, 128, 256, 512, 512]
if arguments.network == "resnet_mtan":
    network = resnet_mtan_class(arguments.mtan, RESNET)()
else:
    narrowed = [round(arguments.channels * number) for number in FILTERS]
    network = segnet_class(arguments.mtan, arguments.network, {f"filter = {FILTERS}": f"filter = {narrowed}"})()
network.to(device, memory_format=memory_format)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
if arguments.program == "compiled":
    network = torch.compile(network)
size = arguments.height, arguments.width
shape = (arguments.rows, *size)
image = torch.rand(arguments.rows, 3, *size).to(device, memory_format=memory_format)
semantic = torch.randint(0, 13, shape).to(device)
depth = torch.rand(arguments.rows, 1, *size).to(device) + 0.1
normal = F.normalize(torch.randn(arguments.rows, 3, *size), dim=1).to(device)


def predict():
    """Returns the predictions of all tasks."""
    with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.precision == "bfloat16"):
        found = network(image)
    return found[0] if isinstance(found[0], (list, tuple)) else found


def train():
    """Runs one training step."""
    predictions = predict()
    defined = (depth.sum(1, keepdim=True) != 0).float()
    count = torch.nonzero(defined).size(0)
    losses = [
        F.nll_loss(predictions[0], semantic, ignore_index=-1),
        ((predictions[1] - depth).abs() * defined).sum() / count,
        1 - (predictions[2] * normal * defined).sum() / count,
    ]
    optimizer.zero_grad()
    sum(losses).backward()
    optimizer.step()


def infer():
    """Runs one prediction."""
    with torch.no_grad():
        predict()


def say(answer):
    """Writes an answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def run(what, times):
    """Runs `times` steps or predictions without synchronization in between; returns the seconds of one."""
    network.train(what == "train")
    start = time.perf_counter()
    for _ in range(times):
        {"train": train, "infer": infer}[what]()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def peak():
    """Returns the peak gigabytes on the GPU since the last call."""
    found = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return found


say({"torch": torch.__version__, "parameters": sum(parameter.numel() for parameter in network.parameters())})
for order in sys.stdin:
    what, *times = order.split()
    say(peak() if what == "peak" else run(what, int(times[0])))
