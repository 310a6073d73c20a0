"""Every official MovieLens format gives the same interactions and items."""

import pytest

from l2d_ray.data.items import RawItem
from l2d_ray.data.sources.movielens import natural_title, open_movielens
from l2d_ray.errors import DataError

FLAGS = "|".join("1" if position in (3, 5) else "0" for position in range(19))  # Animation, Comedy
FORMATS = {
    "latest": {
        "ratings.csv": "userId,movieId,rating,timestamp\n1,10,4.0,100\n2,20,3.5,200\n",
        "movies.csv": 'movieId,title,genres\n10,"Amélie, The (2001)",Animation|Comedy\n20,Heat,(no genres listed)\n',
    },
    "1m": {
        "ratings.dat": "1::10::4::100\n2::20::3.5::200\n",
        "movies.dat": "10::Amélie, The (2001)::Animation|Comedy\n20::Heat::\n".encode("latin-1"),
    },
    "10m": {"ratings.dat": "1::10::4::100\n2::20::3.5::200\n", "movies.dat": "10::Amélie, The (2001)::Animation|Comedy\n20::Heat::\n"},
    "100k": {
        "u.data": "1\t10\t4\t100\n2\t20\t3.5\t200\n",
        "u.item": f"10|Amélie, The (2001)|01-Jan-2001||http://x|{FLAGS}\n20|Heat|||http://y|1{'|0' * 18}\n".encode("latin-1"),
    },
    "recbole": {
        "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t4\t100\n2\t20\t3.5\t200\n",
        "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "10\tAmélie, The\t2001\tAnimation Comedy\n20\tHeat\t\tunknown\n",
    },
}


def _write(folder, name_to_content):
    for name, content in name_to_content.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", FORMATS)
def test_formats_agree(name, tmp_path):
    _write(tmp_path, FORMATS[name])
    source = open_movielens(str(tmp_path), tmp_path / "scratch")
    (interactions,) = source.interaction_files
    (items,) = source.item_files
    rows = [tuple(row.values()) for table in source.read_interactions(interactions) for row in table.to_pylist()]
    assert rows == [("1", "10", 4.0, 100), ("2", "20", 3.5, 200)]
    read = [RawItem(i.item_id, i.title, {k: v for k, v in i.attributes.items() if v}) for i in source.read_items(items)]
    assert read[0] == RawItem("10", "The Amélie (2001)", {"genres": ["Animation", "Comedy"], "year": 2001})
    assert (read[1].item_id, read[1].title) == ("20", "Heat")


@pytest.mark.parametrize(
    ("title", "natural"),
    [
        ("Usual Suspects, The (1995)", "The Usual Suspects (1995)"),
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("Bug's Life, A", "A Bug's Life"),
        ("Eye of Vichy, The (Oeil de Vichy, L') (1993)", "The Eye of Vichy (L'Oeil de Vichy) (1993)"),
        ("I, Worst of All (Yo, la peor de todas) (1990)", "I, Worst of All (Yo, la peor de todas) (1990)"),
        ("Good, the Bad and the Ugly, The (1966)", "The Good, the Bad and the Ugly (1966)"),
    ],
)
def test_articles_move_to_the_front(title, natural):
    assert natural_title(title) == natural


def test_half_a_format_is_refused(tmp_path):
    _write(tmp_path, {"ratings.csv": FORMATS["latest"]["ratings.csv"]})
    with pytest.raises(DataError, match=r"ratings\.csv and movies\.csv"):
        open_movielens(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("ratings.dat", "1::10::4\n"), ("ratings.dat", "1::10::good::100\n"), ("ratings.csv", "userId,movieId,rating,timestamp\n1,10\n")],
)
def test_broken_rows_name_the_file(name, content, tmp_path):
    movies = name.replace("ratings", "movies")
    _write(tmp_path, {name: content, movies: FORMATS["latest"]["movies.csv"]})
    source = open_movielens(str(tmp_path), tmp_path)
    with pytest.raises(DataError, match=name):
        list(source.read_interactions(source.interaction_files[0]))
