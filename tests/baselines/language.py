"""A tiny language model over eight titles, two of them equal: what the tests of the language baselines share."""

from functools import cache

from l2d_ray.baselines.title_space import TitleSpace
from l2d_ray.baselines.title_writing import TitleWriter
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.decode.decoder import PromptWriter
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel
from tests.toys import TITLES, tiny_model

SHARED = (*TITLES[:6], TITLES[2], TITLES[7])
"""Items 2 and 6 share a title."""


@cache
def toy_language_model() -> LanguageModel:
    language_model = tiny_model(seed=3)
    language_model.model.eval()
    return language_model


@cache
def toy_prompts(num_items: int = len(SHARED)) -> PromptWriter:
    catalogue = Catalogue.from_rows((f"item-{number}", title, {}) for number, title in enumerate(SHARED[:num_items]))
    return PromptWriter.of(toy_language_model(), catalogue)


def toy_writer(num_items: int = len(SHARED), **settings) -> TitleWriter:
    return TitleWriter(toy_language_model(), toy_prompts(num_items), **settings)


@cache
def toy_space(num_items: int = len(SHARED)) -> TitleSpace:
    return TitleSpace(Encoder(toy_language_model().model), toy_language_model().tokenizer, SHARED[:num_items])


class Scripted:
    """In the place of a TitleWriter: writes the given texts after every history."""

    def __init__(self, *texts):
        self.texts = texts

    def write(self, histories, *, num_beams):
        return [list(self.texts[:num_beams]) for _ in histories]
