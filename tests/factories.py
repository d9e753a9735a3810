"""The course's own model and pictures, small models, and easy pictures for tests of training."""

import datasets
import torch
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from vit_helpers import models, runtime, training

RECIPE = {"epochs": 3}
RATES = {"lr": 2e-3, "head_lr": 1e-2}


def classifier(attn_implementation="sdpa"):
    """The course's classifier of this run, with its processor."""
    return load(runtime.current().locate("classifier"), attn_implementation)


def load(folder, attn_implementation=None):
    """Any classifier with its processor, ready to answer, as a notebook loads it."""
    model = AutoModelForImageClassification.from_pretrained(
        folder, attn_implementation=attn_implementation
    )
    return model.eval().to(runtime.current().device), models.load_processor(folder)


def processor():
    """Its processor alone."""
    return models.load_processor(runtime.current().locate("classifier"))


def load_dataset(name):
    """A data set of the course, from the source of this run."""
    return datasets.load_dataset(runtime.current().locate(name))


def tiny(classes=3, seed=0, depth=3, hidden=24, dropout=0.1):
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=classes,
        hidden_dropout_prob=dropout,
    )
    return ViTForImageClassification(config)


class Colours(torch.utils.data.Dataset):
    """Easy pictures: class c is bright in channel c. A little noise stands for augmentation."""

    def __init__(self, count=24, noise=0.3, brightness=1.0):
        self.labels = torch.arange(count) % 3
        self.noise = noise
        self.pictures = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
        self.pictures[range(count), self.labels] = round(255 * brightness)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.pictures[i] / 255 + self.noise * torch.randn(3, 16, 16), self.labels[i]


def loaders(count=24, batch=10, noise=0.3, brightness=1.0, generator=True):
    train = torch.utils.data.DataLoader(
        Colours(count, noise, brightness),
        batch_size=batch,
        shuffle=True,
        generator=torch.Generator() if generator else None,
    )
    return train, torch.utils.data.DataLoader(Colours(9, 0.0, brightness), batch_size=4)


def adamw(model, lr=RATES["lr"], head_lr=RATES["head_lr"]):
    return torch.optim.AdamW(training.parameter_groups(model, lr, head_lr))


def fitted(model, train_loader=None, val_loader=None, optimizer=None, **recipe):
    """`training.fit` with the recipe of these tests."""
    if train_loader is None:
        train_loader, val_loader = loaders()
    optimizer = adamw(model) if optimizer is None else optimizer
    return training.fit(model, train_loader, val_loader, optimizer=optimizer, **(RECIPE | recipe))


def same_weights(a, b):
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())
