"""Several servers of one reward: in turn, without those that are away, and none of them."""

import threading
import warnings

import httpx
import pytest
import torch

from advantageflow.config import ConfigError, check_config, load_config
from advantageflow.rewards import check_reward, load_reward
from advantageflow.rewards.pool import RewardPool
from advantageflow.rewards.remote import RemoteReward
from advantageflow.rewards.scoring import Scorer
from advantageflow.run.changes import changed

IMAGES, PROMPTS = torch.zeros(2, 3, 8, 8), ["a", "b"]


class Server:
    """Answers its number for every image, unless it is away, and counts its requests."""

    def __init__(self, number):
        self.number, self.away, self.asked, self.waits = number, False, 0, None
        self.url = f"http://server{number}"

    def __call__(self, request):
        if self.away:
            raise httpx.ConnectError("connection refused")
        if request.url.path == "/score":
            self.asked += 1
            if self.waits:
                self.waits.wait(5)
            return httpx.Response(200, json={"scores": [float(self.number)] * 2})
        return httpx.Response(200, json={})

    def reward(self):
        return RemoteReward(self.url, attempts=1, client=httpx.Client(transport=httpx.MockTransport(self)))


@pytest.fixture
def servers():
    return [Server(1), Server(2), Server(3)]


def pool_of(servers, pause=60.0):
    return RewardPool([server.reward() for server in servers], pause)


def test_batches_go_to_the_servers_in_turn(servers):
    pool = pool_of(servers)
    assert [pool(IMAGES, PROMPTS)[0] for _ in range(6)] == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]


def test_a_server_that_is_away_is_left_out_said_once_and_tried_again(servers):
    pool = pool_of(servers, pause=60.0)
    servers[1].away = True
    with pytest.warns(UserWarning, match="http://server2 does not answer and is left out for 60 seconds"):
        found = [pool(IMAGES, PROMPTS)[0] for _ in range(4)]
    assert set(found) == {1.0, 3.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {pool(IMAGES, PROMPTS)[0] for _ in range(6)} == {1.0, 3.0}
    servers[1].away, pool.pause = False, 0.0
    pool._away = dict.fromkeys(pool._away, float("-inf"))  # as when the pause is over
    assert {pool(IMAGES, PROMPTS)[0] for _ in range(3)} == {1.0, 2.0, 3.0}


def test_when_all_are_away_each_is_named(servers):
    pool = pool_of(servers)
    for server in servers:
        server.away = True
    with (
        pytest.warns(UserWarning, match="is left out"),
        pytest.raises(ValueError, match="no server of this reward") as told,
    ):
        pool(IMAGES, PROMPTS)
    assert all(server.url in str(told.value) for server in servers)
    with pytest.raises(ConfigError, match=r"server1 cannot be reached.*server3 cannot be reached"):
        pool.check_health()


def test_a_start_needs_one_server(servers):
    servers[0].away = True
    pool = pool_of(servers)
    with pytest.warns(UserWarning, match=r"server1 cannot be reached.*the other servers go on without it"):
        pool.check_health()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {pool(IMAGES, PROMPTS)[0] for _ in range(4)} == {2.0, 3.0}


def test_a_refusal_is_not_asked_of_the_next(servers):
    pool = pool_of(servers)
    pool.servers[0].client = httpx.Client(
        transport=httpx.MockTransport(lambda request: httpx.Response(422, text="image 0 is no picture"))
    )
    with pytest.raises(ValueError, match="http://server1 refused with status 422: image 0 is no picture"):
        pool(IMAGES, PROMPTS)
    assert servers[1].asked == 0


def test_all_servers_work_at_the_same_time(servers):
    meeting = threading.Barrier(3)  # no answer before all three are asked
    for server in servers:
        server.waits = meeting
    scorer = Scorer({"mine": pool_of(servers)})
    for _ in range(3):
        scorer.submit(IMAGES, PROMPTS)
    found = scorer.results()["mine"].tolist()
    assert found[::2] == found[1::2]
    assert sorted(found[::2]) == [1.0, 2.0, 3.0]  # whichever batch comes first to a server


def test_addresses_with_commas_between_them_are_one_reward():
    check_reward("http://127.0.0.1:8000,http://127.0.0.1:8001")
    pool = load_reward("http://127.0.0.1:8000,http://127.0.0.1:8001")
    assert [server.url for server in pool.servers] == ["http://127.0.0.1:8000", "http://127.0.0.1:8001"]
    with pytest.raises(ConfigError, match="names one server twice"):
        load_reward("http://127.0.0.1:8000,http://127.0.0.1:8000/")
    with pytest.raises(ConfigError, match="is no address of a server"):
        check_reward("http://127.0.0.1:8000,pickscore")


A, B = "http://127.0.0.1:8000", "http://127.0.0.1:8001"


def test_a_list_of_addresses_is_one_reward(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"reward: [{A}, {B}]\nevaluation: {{rewards: {{other: [{B}, {A}]}}}}\n")
    for config in (
        load_config(str(recipe)),
        load_config("scenes", [f"reward=[{A}, {B}]", f"evaluation.rewards={{other: [{B}, {A}]}}", "objective=nft"]),
    ):
        assert config.reward_weights == {f"{A},{B}": 1.0}
        assert config.evaluation.rewards == {"other": f"{B},{A}", "reward": f"{A},{B}"}
        assert check_config(config.model_dump(mode="json")) == config
    run = changed(load_config("scenes"), [f"evaluation.rewards={{other: [{A}, {B}]}}"])
    assert run.evaluation.rewards == {"other": f"{A},{B}"}


@pytest.mark.parametrize("names", ["[pickscore, ocr]", f"[{A}, ./mine.py:score]", "[]", "[3]"])
@pytest.mark.parametrize("change", ["reward={}", "evaluation.rewards={{a: {}}}"])
def test_a_list_of_anything_else_is_one_sentence_that_says_what_to_write(names, change):
    with pytest.raises(
        ConfigError, match=r"a reward is \[.*\[http://a:8000, http://b:8000\]; .* \{pickscore: 1, ocr: 1\}"
    ):
        load_config("scenes", [change.format(names)])
