import pytest
from builders import group
from tiny_models import tiny_bert_tokenizer, tiny_causal_tokenizer
from tokenizers import normalizers

from deepprune.core.errors import InputError
from deepprune.judge.network.encoding import PairEncoder

CLS, SEP = 2, 3


def bert(**settings):
    return PairEncoder(tiny_bert_tokenizer(), **{"max_length": 20, **settings})


def test_bert_layout():
    tokens = bert().join([], [10, 11], [12])
    assert tokens.input_ids == [CLS, 10, 11, SEP, 12, SEP]
    assert tokens.n_head == 4
    tokens = bert(with_question=True).join([9], [10], [12])
    assert tokens.input_ids == [CLS, 9, SEP, 10, SEP, 12, SEP]
    assert tokens.n_head == 5
    inputs = bert(with_question=True).collate([tokens])
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1]]


def test_causal_layout_shares_the_representative():
    encoder = PairEncoder(tiny_causal_tokenizer(), layout="causal", with_question=True)
    first = encoder.join([7], [10, 11], [12]).input_ids
    second = encoder.join([7], [10, 11], [13, 14]).input_ids
    shared = first.index(12)
    assert first[:shared] == second[:shared]
    text = encoder.tokenizer.decode(first).replace(" ", "")
    assert text.index("Question") < text.index("TraceA") < text.index("TraceB")


def test_a_template_of_ones_own():
    def text(template, **settings):
        encoder = PairEncoder(
            tiny_causal_tokenizer(), layout="causal", template=template, **settings
        )
        ids = encoder.join(*encoder.tokenise(["7", "8", "9"])).input_ids
        return encoder.tokenizer.decode(ids).replace(" ", "")

    assert text("Q {question} A {first} B {second} same", with_question=True).endswith("Q7A8B9same")
    assert text("A {first} B {second} same").endswith("A8B9same")
    for wrong in ("{second} {first}", "{first}", "{question} {first} {second}"):
        with pytest.raises(ValueError, match=r"must have \{first\}, \{second\}, each once"):
            text(wrong)


@pytest.mark.parametrize(
    ("n_first", "n_second", "kept"),
    [
        (8, 9, (8, 9)),  # 17 fit beside [CLS] and two [SEP]
        (30, 30, (8, 9)),  # shared evenly
        (3, 30, (3, 14)),  # what the shorter one does not need goes to the longer one
        (30, 5, (12, 5)),
        (8, 30, (8, 9)),
        (30, 9, (8, 9)),
    ],
)
def test_a_short_window_keeps_the_ends(n_first, n_second, kept):
    encoder = bert()
    first, second = list(range(100, 100 + n_first)), list(range(200, 200 + n_second))
    tokens = encoder.join([], first, second)
    n, m = kept
    assert tokens.input_ids == [CLS, *first[-n:], SEP, *second[-m:], SEP]
    assert encoder.is_truncated(0, n_first, n_second) == (kept != (n_first, n_second))
    assert encoder.length(0, n_first, n_second) == len(tokens.input_ids) <= 20


def test_a_short_window_keeps_the_start_of_the_question():
    assert bert(with_question=True).is_truncated(1, 8, 8)
    assert not bert().is_truncated(99, 8, 8)
    tokens = bert(with_question=True).join([*range(50, 70)], [*range(100, 130)], [200])
    assert tokens.input_ids[:6] == [CLS, 50, 51, 52, 53, SEP]  # a quarter of 16
    assert tokens.input_ids[6:] == [*range(119, 130), SEP, 200, SEP]


def test_no_window_is_ever_exceeded():
    encoder = bert(with_question=True, max_length=13)
    for q in range(12):
        for a in range(0, 15, 3):
            for b in range(0, 15, 2):
                tokens = encoder.join([1] * q, [1] * a, [1] * b)
                assert len(tokens.input_ids) == encoder.length(q, a, b) <= 13


def test_a_causal_tokenizer_needs_no_pad_token():
    tokenizer = tiny_causal_tokenizer()
    tokenizer.pad_token = None
    encoder = PairEncoder(tokenizer, layout="causal")
    assert encoder.collate([encoder.join([], [9], [9]), encoder.join([], [9, 9], [9])])


def test_batches_are_padded_to_their_longest():
    encoder = bert()
    inputs = encoder.collate([encoder.join([], [9], [9]), encoder.join([], [9, 9], [9, 9])])
    assert inputs["input_ids"].shape == (2, 7)
    assert (inputs["attention_mask"][0, 5:] == 0).all()
    assert (inputs["input_ids"][0, 5:] == encoder.tokenizer.pad_token_id).all()
    assert inputs["attention_mask"].sum() == 12
    assert inputs["token_type_ids"].sum() == 2 + 3


def test_it_is_a_small_dictionary():
    encoder = bert(with_question=True)
    again = PairEncoder(encoder.tokenizer, **encoder.settings)
    assert again.settings == encoder.settings
    assert again.settings == {
        "layout": "bert",
        "max_length": 20,
        "with_question": True,
        "chat_template": False,
        "generative": False,
        "answer_words": ["Yes", "No"],
        "texts": [],
    }


def chat_tokenizer(day="Monday"):
    tokenizer = tiny_causal_tokenizer()
    tokenizer.chat_template = (
        f"{day}\nuser: {{{{ messages[0].content }}}}\n"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return tokenizer


def text_of(encoder):
    ids = encoder.join([7], [10, 11], [12]).input_ids
    return "".join(encoder.tokenizer.convert_ids_to_tokens(ids))


def test_a_chat_template_goes_around_the_same_text():
    settings = {"layout": "causal", "with_question": True}
    plain = text_of(PairEncoder(chat_tokenizer(), **settings))
    chat = text_of(PairEncoder(chat_tokenizer(), chat_template=True, **settings))
    assert chat == f"Monday\nuser: {plain}\nassistant: "


def test_an_export_keeps_the_template_it_was_trained_on():
    encoder = PairEncoder(chat_tokenizer(), layout="causal", chat_template=True, generative=True)
    again = PairEncoder(chat_tokenizer("Tuesday"), **encoder.settings)
    assert text_of(again) == text_of(encoder)
    assert again.settings == encoder.settings
    old = {"layout": "causal", "max_length": 512, "with_question": False}  # of version 0.1
    read = PairEncoder(tiny_causal_tokenizer(), **old)
    assert text_of(read).endswith("Same final answer:")


def test_texts_are_tokenised_whole():
    text = group(["a"], 40).traces[0].text
    (ids,) = bert().tokenise([text])
    assert len(ids) >= 40
    assert bert().tokenise([]) == []


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"max_length": 4}, "got 4"),
        ({"layout": "prose"}, "prose"),
    ],
)
def test_arguments_are_checked(settings, match):
    with pytest.raises(ValueError, match=match):
        bert(**settings)


def test_what_a_tokenizer_must_have():
    with pytest.raises(ValueError, match="with a chat template, and this one has none"):
        PairEncoder(tiny_causal_tokenizer(), layout="causal", chat_template=True)
    with pytest.raises(ValueError, match="need the causal layout"):
        bert(generative=True)
    same = tiny_causal_tokenizer()
    same.backend_tokenizer.normalizer = normalizers.Prepend("?")
    with pytest.raises(InputError, match=r"got '\?' for both"):
        PairEncoder(same, layout="causal", generative=True)


def test_a_layout_needs_its_tokens():
    with pytest.raises(ValueError, match="CLS"):
        PairEncoder(tiny_causal_tokenizer(), layout="bert")
