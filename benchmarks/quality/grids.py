"""What each row's tuning tries on validation: ``quick`` takes minutes a row on two cores, ``full`` is each system's own default grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from l2d_ray.baselines import alpharec, bm25, gru4rec, id_head, item_knn, popularity, sasrec, session_knn
from l2d_ray.baselines.alpharec import AlphaRecSettings
from l2d_ray.baselines.bm25 import Bm25Settings
from l2d_ray.baselines.gpt4rec import Gpt4RecSettings
from l2d_ray.baselines.gru4rec import Gru4RecSettings
from l2d_ray.baselines.id_head import IdHeadSettings
from l2d_ray.baselines.item_knn import ItemKnnSettings
from l2d_ray.baselines.sasrec import SasRecSettings
from l2d_ray.baselines.sequence_training import TrainingSettings
from l2d_ray.baselines.session_knn import SessionKnnSettings
from l2d_ray.baselines.tuning import Steps
from l2d_ray.schema import SECONDS_PER_DAY


@dataclass(frozen=True)
class Grids:
    """Candidates of every system.

    Attributes:
        half_lives_s: of popularity, where interactions have times.
        gpt4rec, alphas: the latter are weights of d3's assistant. Both are tried on few validation samples.
    """

    half_lives_s: tuple[float | None, ...]
    item_knn: Steps[ItemKnnSettings]
    session_knn: tuple[SessionKnnSettings, ...]
    bm25: tuple[Bm25Settings, ...]
    sasrec: Steps[SasRecSettings]
    gru4rec: Steps[Gru4RecSettings]
    alpharec: tuple[AlphaRecSettings, ...]
    id_head: tuple[IdHeadSettings, ...]
    id_head_whitened: tuple[IdHeadSettings, ...]
    gpt4rec: tuple[Gpt4RecSettings, ...]
    alphas: tuple[float, ...]


FULL: Final = Grids(
    half_lives_s=popularity.HALF_LIVES_S,
    item_knn=item_knn.STEPS,
    session_knn=session_knn.GRID,
    bm25=bm25.GRID,
    sasrec=sasrec.STEPS,
    gru4rec=gru4rec.STEPS,
    alpharec=alpharec.GRID,
    id_head=id_head.GRID,
    id_head_whitened=tuple(IdHeadSettings(learning_rate=rate) for rate in (1e-6, 1e-5, 3e-5, 1e-4, 3e-4)),
    gpt4rec=tuple(Gpt4RecSettings(num_queries=num, list_length=length) for num, length in product((5, 10, 20), (10, 20, 100))),
    alphas=(0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
)

QUICK: Final = replace(
    FULL,
    session_knn=(
        session_knn.PUBLISHED,
        *(
            SessionKnnSettings(num_neighbors=n, length_power=p, gap_decay=g, backward_weight=b)
            for n, p, (g, b) in product((200, 500), (0.0, 0.5), ((0.9, 0.5), (0.8, 0.25)))
        ),
    ),
    sasrec=replace(sasrec.STEPS, fields=(("dim", (128, 256)), ("dropout", (0.2,)), ("num_layers", (1, 3)))),
    gru4rec=replace(gru4rec.STEPS, fields=(("dim", (128, 256)), ("dropout", (0.2,)), ("num_layers", (2,)))),
    alpharec=tuple(
        AlphaRecSettings(temperature=temperature, learning_rate=rate, max_epochs=40)
        for temperature, rate in product((0.1, 0.2), (1e-3, 5e-3))
    ),
    id_head=tuple(IdHeadSettings(learning_rate=rate) for rate in (1e-4, 3e-4, 1e-3, 3e-3)),
    gpt4rec=tuple(Gpt4RecSettings(num_queries=num, list_length=length) for num, length in product((5, 10), (10, 20, 100))),
    alphas=(0.5, 1.0, 2.0, 4.0, 8.0),
)

_BRIEF: Final = TrainingSettings(max_epochs=1, batch_items=4096)
SMALL: Final = Grids(
    half_lives_s=(None, 60.0 * SECONDS_PER_DAY),
    item_knn=Steps((item_knn.PLAIN_COSINE, ItemKnnSettings()), (("time_scale_s", (60.0 * SECONDS_PER_DAY,)),)),
    session_knn=(session_knn.PUBLISHED, SessionKnnSettings()),
    bm25=(Bm25Settings(), Bm25Settings(num_recent=1)),
    sasrec=Steps((SasRecSettings(dim=16, num_layers=1, training=_BRIEF),)),
    gru4rec=Steps((Gru4RecSettings(dim=16, training=_BRIEF),)),
    alpharec=(AlphaRecSettings(dim=16, hidden_dim=32, batch_interactions=16384, max_epochs=1),),
    id_head=(IdHeadSettings(max_epochs=1),),
    id_head_whitened=(IdHeadSettings(max_epochs=1),),
    gpt4rec=(Gpt4RecSettings(num_queries=2),),
    alphas=(0.5,),
)

NAME_TO_GRIDS: Final = {"small": SMALL, "quick": QUICK, "full": FULL}
