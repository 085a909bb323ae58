"""One training step and one epoch-like loop of the paper's networks in PyTorch, for bench/train.ts. Random data.

Usage: torch_step.py NETWORK BATCH STEPS THREADS; prints the median milliseconds of a step and of a forward pass.
"""
import statistics
import sys
import time

import torch
from torch import nn
import torch.nn.functional as F


def bn_relu(channels):
    return [nn.BatchNorm2d(channels), nn.ReLU()]


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.a, self.na = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.b, self.nb = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.skip = nn.Identity()
        if stride > 1:
            self.skip = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = self.nb(self.b(F.relu(self.na(self.a(x)))))
        return F.relu(y + self.skip(x))


def resnet18():
    layers, cin = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), *bn_relu(64)], 64
    for cout, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(cin, cout, stride), Block(cout, cout, 1)]
        cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def vgg11():
    layers, cin = [], 3
    for cout in (64, 'P', 128, 'P', 256, 256, 'P', 512, 512, 'P', 512, 512, 'P'):
        if cout == 'P':
            layers.append(nn.AvgPool2d(2))
        else:
            layers += [nn.Conv2d(cin, cout, 3, 1, 1), *bn_relu(cout)]
            cin = cout
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def alexnet():
    conv = lambda i, o, s=1: [nn.Conv2d(i, o, 3, s, 1), *bn_relu(o)]
    full = lambda i, o: [nn.Dropout(0.5), nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()]
    pool = nn.AvgPool2d(2)
    return nn.Sequential(
        *conv(3, 64, 2), pool, *conv(64, 192), pool, *conv(192, 384), *conv(384, 256), *conv(256, 256),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), *full(1024, 4096), *full(4096, 4096), nn.Linear(4096, 10))


def mobilenetv1():
    layers, cin = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), *bn_relu(32)], 32
    for cout, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)):
        layers += [nn.Conv2d(cin, cin, 3, stride, 1, groups=cin, bias=False), *bn_relu(cin)]
        layers += [nn.Conv2d(cin, cout, 1, bias=False), *bn_relu(cout)]
        cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 10))


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), *bn_relu(6), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), *bn_relu(16), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(256, 120), nn.BatchNorm1d(120), nn.ReLU(), nn.Linear(120, 84), nn.BatchNorm1d(84), nn.ReLU(),
        nn.Linear(84, 10))


def median(run, times):
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


name, batch, steps, threads = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(threads)
torch.manual_seed(0)
net = {'resnet18': resnet18, 'vgg11': vgg11, 'alexnet': alexnet, 'mobilenetv1': mobilenetv1, 'lenet': lenet}[name]()
x = torch.randn(batch, *((1, 28, 28) if name == 'lenet' else (3, 32, 32)))
y = torch.randint(10, (batch,))
sgd = torch.optim.SGD(net.parameters(), 0.1, 0.5, nesterov=True, weight_decay=5e-4)


def step():
    sgd.zero_grad()
    F.cross_entropy(net(x), y).backward()
    sgd.step()


def forward():
    with torch.no_grad():
        net(x)


trained = median(step, steps)
net.eval()
print(trained, median(forward, steps))
