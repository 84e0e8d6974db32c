"""A baseline's cache in a torch model; needs torch, which continuous integration does not have."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is installed by script/eval only")
pytest.importorskip("transformers", reason="transformers is installed by script/eval only")

from pmkvq import calibration_file, evaluate, torch_cache  # noqa: E402
from pmkvq.baselines import Kivi, RoundToNearest  # noqa: E402
from pmkvq.cache_plan import Geometry, budget_for_bits  # noqa: E402
from pmkvq.divergence import read_logits  # noqa: E402
from pmkvq.errors import FileError  # noqa: E402
from pmkvq.eval_methods import parse_method  # noqa: E402
from pmkvq_run import generate, ids, programs  # noqa: E402


@pytest.fixture(scope="module")
def model(request):
    reasoner = request.config.rootpath.parents[0] / "models" / "reasoner"
    return torch_cache.PagedModel(reasoner, "cpu", 1)


def paged(name, tokens, sequences=1):
    method = parse_method(name)
    scheme = method.scheme()
    geometry = Geometry(6, 2, 128, scheme.sink)
    slot = sum(scheme.parameter_bytes(128, part) for part in (0, 1))
    limits = method.limits(geometry, slot, tokens)
    return torch_cache.PagedCache(geometry, scheme, limits, sequences, tokens, "cpu", method.order)


def test_squares_of_a_calibration_are_taken_in_place_of_those_seen(tmp_path):
    part = {"clip": 0.8, "sensitivity": [0.1, 0.2, 0.3]}
    document = {"format": "pmkvq-calibration", "version": 1,
                "model": {"hash": "", "layers": 6, "kv_heads": 2, "head_dim": 128},
                "settings": {"measure": "sensitivity", "key_format": "<per_channel, hadamard>",
                             "value_format": "<per_token, hadamard>"},
                "layers": [{"key": part, "value": part, "query_squares": [[1.0 + layer] * 128] * 2} for layer in range(6)]}
    path = tmp_path / "c.json"
    calibration_file.write(path, document)
    cache = paged(f"trial+feedback=channels+calibration={path}:2", 300, sequences=3)
    assert cache._moments[4].tolist() == [[[5.0] * 128] * 2] * 3
    cache.attend(4, torch.ones(3, 6, 1, 128), 1.0)
    assert not cache._newest_queries
    del document["layers"][1]["query_squares"]
    calibration_file.write(path, document)
    with pytest.raises(FileError, match="query_squares: expected .*calibrate again, got None"):
        paged(f"trial+feedback=channels+calibration={path}:2", 300)


def program(lines=64):
    return programs(lines)[0]["prompt"], programs(lines)[0]["answer"]


def forced(model, cache, tokens):
    parts = []
    torch_cache.force(model, cache, tokens, lambda begin, logits: parts.append(logits))
    return torch.cat(parts).numpy()


def test_a_bf16_cache_gives_the_products_logits(model, reasoner, tmp_path):
    tokens = program()[0][:200]
    generate(reasoner, f"--prompt-tokens={ids(tokens)}", "--max-tokens=1", f"--logits={tmp_path / 'l'}")
    expected, found = read_logits(tmp_path / "l"), forced(model, paged("torch", 200), tokens)
    # Keys and values are bf16 on both sides, from f32 sums in another order: a last place differs now and then.
    assert np.abs(found - expected).mean() < 0.02 and np.array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("name", ["rtn:2", "kivi:2", "paper:2", "turboquant+norm:k4v2", "kivi:3.5bits", "rtn+layer:5bits",
                                  "trial+heads=2+floor=k2v1+order=mass:2bits", "trial+pages=2+drop+order=error:1.75bits",
                                  "trial+feedback=full:2.5bits", "trial+feedback=channels:2"])
def test_rows_one_by_one_and_many_at_a_time_are_the_same(model, name):
    tokens = (program()[0] + program()[1])[:430]
    many = forced(model, paged(name, 430), tokens)
    cache, single = paged(name, 430), []
    for token in tokens:
        single.append(model.step(cache, torch.tensor([[token]]), last=True)[0, -1].numpy())
        cache.tokens += 1
    # Sums in another order; a key or value whose last bf16 place differs, and a code at an edge, change a little more.
    differences = np.abs(many - np.array(single)).mean(1)
    # With feedback a code at an edge changes those after it, too.
    assert np.median(differences) < (5e-3 if "feedback" in name else 1e-3) and differences.mean() < 0.1


def test_a_page_is_read_back_from_codes_and_the_window_is_not(model):
    tokens = program()[0][:300]
    cache = paged("rtn:2", 300)
    forced(model, cache, tokens)
    given, read = cache._given[0][0].float(), cache._read[0][0]
    same = (given == read).all(-1).all(1)[0].tolist()
    # The sink; two pages; what is left.
    assert same == [True] + [False] * 256 + [True] * 43
    page = given[:, :, 1:129]
    assert torch.equal(read[:, :, 1:129], RoundToNearest().decode(page, 0, 2))


def test_kivis_values_leave_the_window_one_by_one(model):
    cache = paged("kivi:2", 300)
    forced(model, cache, program()[0][:300])
    cache.prepare()
    given, read = cache._given[0].float(), cache._read[0]
    keys, values = ((given[part] == read[part]).all(-1).all(1)[0].tolist() for part in (0, 1))
    assert keys == [False] * 256 + [True] * 44
    assert values == [False] * 172 + [True] * 128
    assert torch.equal(read[1][:, :, :172], Kivi().decode(given[1][:, :, :172], 1, 2))


def test_guesses_do_not_change_what_is_generated(model):
    prompt, answer = program(16)
    for name in ("torch", "rtn:2"):
        tokens = len(prompt) + len(answer) - 1
        (plain,) = torch_cache.generate(model, paged(name, tokens), [prompt], len(answer), lambda _: None)
        for guess in (answer, [7] * len(answer)):
            found, steps = torch_cache.generate_guessing(model, paged(name, tokens), prompt, guess, lambda _: None)
            assert found == plain and 1 <= steps < len(answer)
    assert plain != answer


def test_bytes_stay_within_the_budget(model):
    prompt, answer = program()
    tokens = len(prompt) + len(answer) - 1
    cache = paged("turboquant:3bits", tokens)
    forced(model, cache, (prompt + answer)[:tokens])
    budget = budget_for_bits(Geometry(6, 2, 128), tokens, 3)
    assert 0.95 * budget < max(used for _, used in cache.points) <= budget
    assert [at for at, _ in cache.points] == [0, *range(130, tokens + 1, 128)]


@pytest.mark.parametrize("name", ["kivi+prompt:2", "rtn+prompt:2"])
def test_a_prompt_may_be_read_in_bf16_until_its_end(model, name):
    prompt = program()[0]
    cache, exact = paged(name, 350), paged("torch", 350)
    cache.read_back(codes=False)
    torch_cache.prefill(model, exact, [prompt])
    torch_cache.prefill(model, cache, [prompt])
    # What later layers put in does not know of codes yet; what is read from now on does.
    last, expected = (c._given[5][:, :, :, :len(prompt)].float() for c in (cache, exact))
    # Chunks end elsewhere without a sink: sums in another order.
    assert (last - expected).abs().mean() < 0.01
    assert (cache._read[5][0, :, :, 1:129] - last[0, :, :, 1:129]).abs().mean() > 0.05
    assert cache.points[-1][1] > cache.points[-2][1]


def test_what_is_dropped_is_not_attended_to(model):
    tokens = (program()[0] + program()[1])[:600]
    cache = paged("trial+drop+order=recent:1bits", 600)
    forced(model, cache, tokens)
    levels = cache._levels[:, 0, 2]
    assert (levels == 0).any() and not (levels == 0).all()
    kept = torch.ones(2, 600, dtype=torch.bool)
    kept[:, 1:1 + 128 * len(levels)] = torch.from_numpy((levels != 0).T).repeat_interleave(128, 1)
    queries = torch.randn(1, 6, 1, 128, generator=torch.Generator().manual_seed(1))
    cache.tokens -= 1
    found = cache.attend(2, queries, 0.1)
    for head in range(6):
        keys, values = cache._read[2][:, 0, head // 3, kept[head // 3]]
        expected = (0.1 * keys @ queries[0, head, 0]).softmax(0) @ values
        assert torch.allclose(found[0, 0, head], expected, atol=1e-4)


def test_attention_of_guesses_that_are_not_kept_does_not_count(model):
    prompt, answer = program(16)
    tokens = len(prompt) + len(answer) - 1
    plain, guessed = (paged("trial+order=mass+drop:2bits", tokens) for _ in range(2))
    torch_cache.generate(model, plain, [prompt], len(answer), lambda _: None)
    torch_cache.generate_guessing(model, guessed, prompt, [7] * len(answer), lambda _: None)
    for cache in (plain, guessed):
        cache.prepare()
        # Every query's attention sums to 1, in every head: 3 queries share a kv head.
        assert torch.allclose(cache._mass.sum(-1), torch.full((6, 1, 2), 3.0 * tokens), rtol=1e-4)
    # A key whose last bf16 place differs, now and then.
    assert (plain._mass - guessed._mass).abs().sum() < 0.02 * plain._mass.sum()


def test_texts_need_no_build_where_torch_is_the_reference(reasoner, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(evaluate, "TOOL", tmp_path / "nothing")
    text = tmp_path / "t.jsonl"
    text.write_text(json.dumps({"tokens": program()[0][:400]}) + "\n")
    arguments = [str(reasoner), f"--data={text}", "--threads=1", "--methods=torch,trial:2,trial:4"]
    assert evaluate.main(arguments) == 1 and "not built" in capfd.readouterr().err
    assert evaluate.main([*arguments, "--reference=torch"]) == 0
    rows = [row.split() for row in capfd.readouterr().out.splitlines()[1:]]
    torch_kl, two, four = (float(row[5]) for row in rows)
    assert torch_kl == 0 < four < two


def test_heads_that_do_not_share_are_refused(reasoner, tmp_path, capfd):
    code = evaluate.main([str(reasoner), f"--data={reasoner / 'programs-16.jsonl'}", "--methods=trial+heads=3:2"])
    assert code == 1 and "heads: expected a divisor of the model's 2 kv heads, got 3" in capfd.readouterr().err


def test_divergences_on_the_device_are_those_in_numpy():
    from pmkvq.divergence import divergences

    random = np.random.default_rng(1)
    expected, actual = (random.normal(size=(300, 50)).astype(np.float32) * 3 for _ in range(2))
    for found, known in zip(torch_cache.divergences_on_device(expected, torch.from_numpy(actual)),
                            divergences(expected, actual)):
        assert np.allclose(found, known, rtol=1e-12)
