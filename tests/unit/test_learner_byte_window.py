"""The byte-window student: what it reads, and that its two ways of making a bag are one function."""

import itertools

import numpy as np
import torch

from distill_loop.learner.byte_window import HASH_FACTOR, HASH_PRIME, PADDING, ByteWindowNet
from tests.support.learning import NUM_CLASSES, WINDOW, make_window, small_learner

HALF = WINDOW // 2


def make_net(seed: int = 0) -> ByteWindowNet:
    torch.manual_seed(seed)
    return ByteWindowNet(small_learner(), NUM_CLASSES, WINDOW)


def make_halves() -> tuple[torch.Tensor, torch.Tensor]:
    windows = np.concatenate([make_window(label, label) for label in range(4)])
    windows[0, 40:] = PADDING
    windows[1] = PADDING
    bytes_BL = torch.from_numpy(windows).to(torch.int64)
    return bytes_BL[:, :HALF], bytes_BL[:, HALF:]


def test_a_bag_is_the_scaled_sum_over_pairs_without_padding() -> None:
    net, halves = make_net(), make_halves()
    weight = net.pairs.weight.detach().numpy()

    bags = [bag.detach().numpy() for bag in net._counted(*halves)]

    for half, (half_BP, bag) in enumerate(zip(halves, bags, strict=True)):
        for row, places in enumerate(half_BP.numpy()):
            pairs = [(a, b) for a, b in itertools.pairwise(places) if PADDING not in (a, b)]
            ids = [1 + half * 64 + (int(a) * 257 + int(b)) * HASH_FACTOR % HASH_PRIME % 64 for a, b in pairs]
            expected = weight[ids].sum(axis=0) / np.sqrt(max(1, len(ids)))
            np.testing.assert_allclose(bag[row], expected, atol=1e-5)


def test_gathering_and_counting_agree_in_value_and_gradient() -> None:
    counted_net, gathered_net, halves = make_net(), make_net(), make_halves()

    counted = torch.cat(counted_net._counted(*halves), dim=1)
    gathered = torch.cat(gathered_net._gathered(*halves), dim=1)
    counted.square().sum().backward()
    gathered.square().sum().backward()

    torch.testing.assert_close(counted, gathered, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(counted_net.pairs.weight.grad, gathered_net.pairs.weight.grad, atol=1e-4, rtol=1e-4)


def test_padding_teaches_nothing() -> None:
    net = make_net()

    net(torch.full((2, WINDOW), PADDING, dtype=torch.int32)).square().sum().backward()

    assert net.pairs.weight.grad is not None
    assert not net.pairs.weight.grad.any()


def test_values_outside_bytes_are_read_as_the_nearest() -> None:
    net = make_net().eval()
    odd = torch.full((1, WINDOW), 7, dtype=torch.int32)
    odd[0, 0], odd[0, 1] = -5, 70_000
    mended = odd.clamp(0, PADDING)

    assert torch.equal(net(odd), net(mended))


def test_the_same_seed_gives_the_same_student() -> None:
    first, second, other = make_net(3).state_dict(), make_net(3).state_dict(), make_net(4).state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
