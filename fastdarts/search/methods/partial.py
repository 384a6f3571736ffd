"""PC-DARTS: candidates on part of the channels, edges with weights of their own."""

from __future__ import annotations

from fastdarts.search.methods.preset import Method

__all__ = ["METHODS"]

_PC_DARTS = "Xu et al.: PC-DARTS, ICLR 2020"

METHODS = (
    Method(
        "pc-darts",
        "first order on 1/4 of the channels, edge normalisation, alphas wait 15 epochs",
        f"{_PC_DARTS}, Eq. 3 and 4",
        {
            "hypergradient": "first",
            "partial": 4,
            "edge_normalisation": True,
            "arch_start_epoch": 15,
            "batch_size": 256,
            "lr": 0.1,
            "lr_min": 0.0,
            "arch_lr": 6e-4,
        },
    ),
    Method(
        "pc-darts-imagenet",
        "pc-darts as on ImageNet: 1/2 of the channels, large batches and rates, alphas wait 35 epochs",
        f"{_PC_DARTS}, Eq. 3 and 4, section 4.3",
        {
            "hypergradient": "first",
            "partial": 2,
            "edge_normalisation": True,
            "arch_start_epoch": 35,
            "warmup_epochs": 5,
            "warmup_above": 256,
            "split_by_class": True,
            "stem": "imagenet",
            "batch_size": 1024,
            # A tenth of each class trains weights and a fortieth alphas: give the search an eighth of the images.
            "train_portion": 0.8,
            "lr": 0.5,
            "lr_min": 0.0,
            "arch_lr": 6e-3,
            "arch_grad_clip": 5.0,
        },
        # Rates of batches of 1024 would not suit those of 64; these are pc-darts' on the same data.
        small={"lr": 0.1, "arch_lr": 0.018, "stem": "cifar"},
    ),
)
