"""A task that a network learns in a few steps."""

import torch

from gnomon.lab.data.tasks import ImageTask, Split


def brightness_task(count: int = 96) -> ImageTask:
    """Two classes, dark and bright 4x4 images: a network learns it in a few steps."""
    generator = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        labels = torch.arange(size) % 2
        noise = torch.randint(0, 40, (size, 1, 4, 4), generator=generator)
        return Split((noise + 120 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)

    mean, std = torch.full((1, 1, 1), 80.0), torch.full((1, 1, 1), 60.0)
    return ImageTask("brightness", split(count), split(32), split(32), 2, 1, mean, std)
