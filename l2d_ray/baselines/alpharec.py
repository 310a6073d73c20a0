"""AlphaRec: a language model's title embeddings, an MLP, graph convolution, a contrastive loss (Sheng et al. 2024, arXiv 2407.05441).

    item_0 = MLP(title embedding), user_0 = MLP(mean title embedding of the user's items)
    user_(l+1) = sum over the user's items of item_l / sqrt(|user| |item|), item_(l+1) alike, |.| the number of graph neighbours
    final = mean over the layers 0..num_layers, scores = cosine / temperature, loss = InfoNCE

No item and no user has parameters of its own. Two things differ from the authors' code: the negatives are all items and not 256 sampled
ones, and title embeddings are standardised per dimension, since hidden states of a causal model are far from isotropic. A request is
a new user: a node whose neighbours are the history's items and which changes no other node. Order does not matter to this model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from l2d_ray.baselines.early_stopping import train_until_best
from l2d_ray.baselines.interface import interaction_counts, rank_in_blocks
from l2d_ray.baselines.tuning import Tuned, ValidationSamples, tune, validation_ndcg
from l2d_ray.errors import DataError


@dataclass(frozen=True)
class AlphaRecSettings:
    """Shape and training of AlphaRec.

    Attributes:
        hidden_dim: width of the MLP's inner layer.
        batch_interactions: (user, item) pairs in one step; every step convolves the whole graph.
    """

    dim: int = 64
    hidden_dim: int = 256
    num_layers: int = 2
    temperature: float = 0.15
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    batch_interactions: int = 4096
    max_epochs: int = 100
    patience: int = 5
    seed: int = 0


GRID: Final = tuple(
    AlphaRecSettings(dim=dim, temperature=temperature, learning_rate=rate)
    for dim, temperature, rate in product((64, 256), (0.1, 0.15, 0.2), (1e-3, 5e-3))
)
"""What ``tune_alpharec`` tries by default."""


class AlphaRec:
    """Fits ``interface.Baseline``. Items without training data are ranked by their titles; an empty history by popularity.

    Args:
        title_embeddings: (num_items, d) float32, one row an item.
        validation: stops training; without it there are exactly ``max_epochs``.
        device: of torch; training and ranking stay there.

    Attributes:
        num_epochs: those that the weights have seen.

    Raises:
        DataError: embeddings that are not one finite row an item.
    """

    def __init__(
        self,
        train_sequences: Sequence[Sequence[int]],
        title_embeddings: NDArray[np.float32],
        settings: AlphaRecSettings = AlphaRecSettings(),
        *,
        validation: ValidationSamples | None = None,
        device: str = "cpu",
    ) -> None:
        if title_embeddings.ndim != 2 or not np.isfinite(title_embeddings).all():
            raise DataError(f"Title embeddings of shape {title_embeddings.shape} must be finite and one row an item, (num_items, d).")
        self._device, self._settings = device, settings
        self._titles = _standardised(title_embeddings)
        self.num_epochs = 0
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            memberships = self._take(train_sequences)
            if memberships.nnz:
                self._train(memberships, settings, validation)
        self._network.eval()

    def extended(self, sequences: Sequence[Sequence[int]]) -> AlphaRec:
        """The same weights over the graph of other interactions, which cost no training: users and items are only what they neighbour."""
        other = copy(self)
        other._take(sequences)
        other._network.mlp.load_state_dict(self._network.mlp.state_dict())
        other._network.eval()
        return other

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history, (n, k) int64 padded with -1."""
        return rank_in_blocks(histories, self._scores, k, exclude, num_items=len(self._counts))

    @torch.inference_mode()
    def _scores(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """(n, num_items) float64: cosines, popularity for an empty history."""
        memberships = _memberships(histories, len(self._counts))
        means = torch.from_numpy(_mean_titles(memberships, self._titles)).to(self._device)
        users = self._network.new_users(means, _torch_sparse(self._edges(memberships), self._device))
        scores = self._network.cosines(users).float().cpu().numpy().astype(np.float64)
        scores[[not history for history in histories]] = self._counts
        return scores

    def _take(self, sequences: Sequence[Sequence[int]]) -> Any:
        """A network with fresh weights over the graph of these users; returns who has what, users without anything left out."""
        num_items = len(self._titles)
        self._counts = interaction_counts(sequences, num_items).astype(np.float64)
        memberships = _memberships(sequences, num_items)
        memberships = memberships[np.flatnonzero(memberships.sum(axis=1))]
        self._degrees = np.maximum(np.asarray(memberships.sum(axis=0)).ravel(), 1)
        self._network = _Network(self._titles, memberships, self._edges(memberships), self._settings).to(self._device)
        return memberships

    def _edges(self, memberships: Any) -> Any:
        """Sparse (n, num_items): 1 / sqrt(|user| |item|) for each item of each user, item degrees from the training graph."""
        sizes = np.maximum(np.asarray(memberships.sum(axis=1)).ravel(), 1)
        return sparse.csr_matrix(sparse.diags(sizes**-0.5) @ memberships @ sparse.diags(self._degrees**-0.5))

    def _train(self, memberships: Any, settings: AlphaRecSettings, validation: ValidationSamples | None) -> None:
        users, items = (torch.from_numpy(index.astype(np.int64)).to(self._device) for index in memberships.nonzero())
        optimizer = torch.optim.Adam(self._network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        generator = torch.Generator().manual_seed(settings.seed)

        def train_epoch() -> None:
            order = torch.randperm(len(users), generator=generator).to(self._device)
            for batch in torch.split(order, settings.batch_interactions):
                loss = nn.functional.cross_entropy(self._network(users[batch]) / settings.temperature, items[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        score = None if validation is None else lambda: validation_ndcg(self, validation)
        self.num_epochs = train_until_best(self._network, train_epoch, score, max_epochs=settings.max_epochs, patience=settings.patience)


def tune_alpharec(
    train_sequences: Sequence[Sequence[int]],
    title_embeddings: NDArray[np.float32],
    *,
    validation: ValidationSamples,
    grid: Sequence[AlphaRecSettings] = GRID,
    device: str = "cpu",
) -> Tuned[AlphaRecSettings, AlphaRec]:
    """The candidate with the best ndcg@20 on validation, which stops each one's training too."""
    return tune(
        grid, lambda settings: AlphaRec(train_sequences, title_embeddings, settings, validation=validation, device=device), validation
    )


class _Network(nn.Module):
    """The MLP and the graph; users are the training users.

    Args:
        titles: (num_items, d) float32.
        memberships: sparse (num_users, num_items) of zeros and ones.
        edges: the same cells, normalised.
    """

    def __init__(self, titles: NDArray[np.float32], memberships: Any, edges: Any, settings: AlphaRecSettings) -> None:
        super().__init__()
        self.num_layers = settings.num_layers
        self.mlp = nn.Sequential(
            nn.Linear(titles.shape[1], settings.hidden_dim), nn.LeakyReLU(), nn.Linear(settings.hidden_dim, settings.dim)
        )
        self.register_buffer("titles", torch.from_numpy(titles), persistent=False)
        self.register_buffer("user_titles", torch.from_numpy(_mean_titles(memberships, titles)), persistent=False)
        self.register_buffer("edges", _torch_sparse(edges, "cpu"), persistent=False)
        self.register_buffer("edges_back", _torch_sparse(edges.T.tocsr(), "cpu"), persistent=False)

    def forward(self, users: Tensor) -> Tensor:
        """Cosines (b, num_items) of some training users."""
        user_layers, item_layers = self._layers()
        return _cosine(torch.stack(user_layers).mean(0)[users], torch.stack(item_layers).mean(0))

    def new_users(self, mean_titles: Tensor, edges: Tensor) -> Tensor:
        """Final (n, dim) of users outside the graph, from their items' mean title (n, d) and their edges (n, num_items)."""
        item_layers = self._layers()[1]
        layers = [self.mlp(mean_titles), *(torch.sparse.mm(edges, layer) for layer in item_layers[: self.num_layers])]
        return torch.stack(layers).mean(0)

    def cosines(self, users: Tensor) -> Tensor:
        """Cosines (n, num_items) of final users (n, dim)."""
        return _cosine(users, torch.stack(self._layers()[1]).mean(0))

    def _layers(self) -> tuple[list[Tensor], list[Tensor]]:
        """Users (num_users, dim) and items (num_items, dim) of the layers 0..num_layers."""
        users, items = [self.mlp(self.user_titles)], [self.mlp(self.titles)]
        for _ in range(self.num_layers):
            next_users, next_items = torch.sparse.mm(self.edges, items[-1]), torch.sparse.mm(self.edges_back, users[-1])
            users.append(next_users)
            items.append(next_items)
        return users, items


def _cosine(users: Tensor, items: Tensor) -> Tensor:
    return nn.functional.normalize(users, dim=-1) @ nn.functional.normalize(items, dim=-1).T


def _standardised(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    spread = embeddings.std(axis=0)
    standardised: NDArray[np.float32] = ((embeddings - embeddings.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
    return standardised


def _memberships(sequences: Sequence[Sequence[int]], num_items: int) -> Any:
    """Sparse (n, num_items) of zeros and ones."""
    rows = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    items = np.array([item for sequence in sequences for item in sequence], np.int64)
    memberships = sparse.csr_matrix((np.ones(len(items)), (rows, items)), shape=(len(sequences), num_items))
    memberships.data[:] = 1.0  # csr_matrix has summed repeats
    return memberships


def _mean_titles(memberships: Any, titles: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, d) float32: mean title of each row's items, zero where there are none."""
    sizes = np.maximum(np.asarray(memberships.sum(axis=1)), 1)
    means: NDArray[np.float32] = (memberships @ titles / sizes).astype(np.float32)
    return means


def _torch_sparse(matrix: Any, device: str) -> Tensor:
    cells = matrix.tocoo()
    indexes = torch.from_numpy(np.stack([cells.row, cells.col]).astype(np.int64))
    values = torch.from_numpy(cells.data.astype(np.float32))
    return torch.sparse_coo_tensor(indexes, values, cells.shape, device=device, check_invariants=False).coalesce()
