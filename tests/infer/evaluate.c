/* Evaluation against figures from numpy and transformers (tests/fixtures/eval), and against itself. */
#include "infer/evaluate.h"

#include "base/json.h"
#include "base/memory.h"
#include "data/records/questions.h"
#include "infer/adapter_io.h"
#include "infer/bootstrap.h"
#include "tensor/safetensors.h"
#include "tests/support/tiny.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const Json *member(const Json *object, const char *key)
{
    const Json *found = json_find(object, key);
    if (!found) fail_msg("no %s in the fixture", key);
    return found;
}

static double number(const Json *object, const char *key) { return json_number(member(object, key)); }

static void assert_near(double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance)) fail_msg("%.12g, expected %.12g within %g", a, b, tolerance);
}

/* Documents of a model fixture: input_ids and labels of its reference. */
static size_t reference_documents(const char *name, Document docs[8])
{
    char path[PATH_BYTES];
    Safetensors file;
    snprintf(path, sizeof path, "tests/fixtures/model/%s/reference.safetensors", name);
    assert_ok(safetensors_open(&file, path));
    const TensorView *ids = safetensors_find(&file, "input_ids"), *labels = safetensors_find(&file, "labels");
    size_t n = ids->shape[0], T = ids->shape[1];
    for (size_t d = 0; d < n; d++) {
        docs[d] = (Document){.n = T};
        assert_ok(mem_new(&docs[d].ids, T, sizeof(int32_t)));
        assert_ok(mem_new(&docs[d].targets, T, sizeof(int32_t)));
        for (size_t t = 0; t < T; t++) {
            int64_t id, label = -100;
            memcpy(&id, (const char *)ids->data + 8 * (d * T + t), 8);
            if (t + 1 < T) memcpy(&label, (const char *)labels->data + 8 * (d * T + t + 1), 8);
            docs[d].ids[t] = (int32_t)id;
            docs[d].targets[t] = label == -100 ? -1 : (int32_t)label;
            docs[d].n_loss_tokens += label != -100;
        }
    }
    safetensors_close(&file);
    return n;
}

static void check_variant(const Json *expected, const VariantScore *score)
{
    size_t d = 0;
    for (const Json *doc = json_first(expected); doc; doc = json_next(doc), d++) {
        const DocumentScore *s = &score->documents[d];
        assert_near(s->nll, number(doc, "nll"), 1e-4 * number(doc, "nll"));
        assert_near(s->kl, number(doc, "kl"), 1e-4 * number(doc, "kl") + 1e-9);
        assert_near(s->kl_back, number(doc, "kl_back"), 1e-4 * number(doc, "kl_back") + 1e-9);
        assert_int_equal((int)s->right, (int)number(doc, "right"));
    }
}

static void check_model(const char *name, const Json *expected)
{
    Model *model = tiny_model(name);
    Adapter *adapter;
    Document docs[8];
    const Document *all[8];
    char path[PATH_BYTES];
    Scores scores;
    size_t n = reference_documents(name, docs);
    for (size_t d = 0; d < n; d++) all[d] = &docs[d];
    snprintf(path, sizeof path, "tests/fixtures/model/%s/adapter", name);
    assert_ok(adapter_open(&adapter, model, path));
    assert_ok(evaluate(&scores, model, 2, (const Adapter *[]){NULL, adapter}, n, all, &(EvaluateConfig){0}));
    assert_int_equal(scores.readings, 1);
    check_variant(member(expected, "base"), &scores.variants[0]);
    check_variant(member(expected, "adapter"), &scores.variants[1]);
    for (const Json *layer = json_first(member(expected, "changed")); layer; layer = json_next(layer))
        assert_int_equal(scores.variants[1].changed[atoi(json_key(layer))], (uint64_t)json_number(layer));
    scores_free(&scores);
    for (size_t d = 0; d < n; d++) tiny_document_free(&docs[d]);
    adapter_free(adapter);
    model_close(model);
}

static void scores_are_those_of_numpy_on_transformers_logits(void **state)
{
    (void)state;
    Json *root;
    assert_ok(json_read_file(&root, "tests/fixtures/eval/scores.json"));
    for (const Json *model = json_first(root); model; model = json_next(model)) check_model(json_key(model), model);
    json_free(root);
}

/* Any group, any number of readings, any company: the same bits. */
static void company_changes_no_bit(void **state)
{
    (void)state;
    Model *model = tiny_model("indexshare");
    Adapter *low, *high;
    Document docs[3];
    const Document *all[3];
    Scores together, apart;
    size_t V = (size_t)model->config.vocab_size;
    for (size_t d = 0; d < 3; d++) {
        docs[d] = tiny_document(9 + 13 * d, V, d);
        all[d] = &docs[d];
    }
    assert_ok(tiny_adapter(&low, model, 4, "'all-linear'", NULL, NULL));
    assert_ok(tiny_adapter(&high, model, 4, "['o_proj']", "[2]", NULL)); /* below layer 2 it is the base */
    tiny_fill(low, 1, 0.1);
    tiny_fill(high, 2, 0.1);
    const Adapter *variants[] = {NULL, low, high};
    assert_ok(evaluate(&together, model, 3, variants, 3, all, &(EvaluateConfig){0}));
    assert_ok(evaluate(&apart, model, 3, variants, 3, all, &(EvaluateConfig){.group_tokens = 10, .hidden_bytes = 1}));
    assert_int_equal(together.readings, 1);
    assert_int_equal(apart.readings, 3);
    for (size_t v = 0; v < 3; v++) {
        assert_memory_equal(together.variants[v].documents, apart.variants[v].documents, 3 * sizeof(DocumentScore));
        assert_memory_equal(together.variants[v].load, apart.variants[v].load,
                            model->n_layers * model->router.E * sizeof(uint64_t));
        assert_memory_equal(together.variants[v].changed, apart.variants[v].changed,
                            model->n_layers * sizeof(uint64_t));
        Scores alone;
        assert_ok(evaluate(&alone, model, 1, &variants[v], 3, all, &(EvaluateConfig){0}));
        for (size_t d = 0; d < 3; d++)
            assert_true(alone.variants[0].documents[d].nll == together.variants[v].documents[d].nll);
        assert_memory_equal(together.variants[v].load, alone.variants[0].load,
                            model->n_layers * model->router.E * sizeof(uint64_t));
        scores_free(&alone);
    }
    assert_true(together.variants[1].documents[0].kl > 0);
    scores_free(&together);
    scores_free(&apart);
    for (size_t d = 0; d < 3; d++) tiny_document_free(&docs[d]);
    adapter_free(low);
    adapter_free(high);
    model_close(model);
}

static void a_fresh_adapter_is_no_distance_from_the_base(void **state)
{
    (void)state;
    Model *model = tiny_model("sparse");
    Adapter *adapter;
    Document doc = tiny_document(20, (size_t)model->config.vocab_size, 5);
    const Document *all[] = {&doc};
    Scores scores;
    assert_ok(tiny_adapter(&adapter, model, 4, "'all-linear'", NULL, NULL));
    assert_ok(evaluate(&scores, model, 2, (const Adapter *[]){NULL, adapter}, 1, all, &(EvaluateConfig){0}));
    assert_true(scores.variants[1].documents[0].nll == scores.variants[0].documents[0].nll);
    assert_near(scores.variants[1].documents[0].kl, 0, 1e-12);
    for (size_t l = 0; l < model->n_layers; l++) {
        RoutingShift shift = scores_routing(&scores, 1, l);
        assert_true(shift.changed == 0);
        if (model->layers[l].dense) continue;
        assert_true(shift.entropy > 0 && shift.entropy <= 1);
        assert_true(shift.max_over_mean >= 1);
    }
    scores_free(&scores);
    tiny_document_free(&doc);
    adapter_free(adapter);
    model_close(model);
}

static size_t numbers_of(const Json *list, double *out)
{
    size_t n = 0;
    for (const Json *x = json_first(list); x; x = json_next(x)) out[n++] = json_number(x);
    return n;
}

static void intervals_are_numpys(void **state)
{
    (void)state;
    Json *root;
    assert_ok(json_read_file(&root, "tests/fixtures/eval/bootstrap.json"));
    for (const Json *c = json_first(root); c; c = json_next(c)) {
        double top[64], bottom[64];
        Interval interval;
        size_t n = numbers_of(member(c, "top"), top);
        numbers_of(member(c, "bottom"), bottom);
        assert_ok(bootstrap(&interval, n, top, bottom, (size_t)number(c, "draws"), number(c, "level"),
                            (uint64_t)number(c, "seed")));
        assert_near(interval.value, number(c, "value"), 1e-12);
        assert_near(interval.low, number(c, "low"), 1e-12);
        assert_near(interval.high, number(c, "high"), 1e-12);
    }
    json_free(root);
}

static void check_question(const Json *expected, const Question *q, const DocumentScore *scores)
{
    size_t i = 0;
    for (const Json *choice = json_first(expected); choice; choice = json_next(choice), i++) {
        assert_int_equal(q->choices[i].n_loss_tokens, (size_t)number(choice, "tokens"));
        assert_near(-scores[i].nll, number(choice, "log_likelihood"), 1e-4 * number(choice, "tokens"));
    }
    assert_int_equal(i, q->n_choices);
}

static void choices_are_as_likely_as_transformers_says(void **state)
{
    (void)state;
    Model *model = tiny_model("examples/tiny-glm5");
    Tokenizer *tokenizer;
    Questions *questions;
    Json *root;
    Scores scores;
    const Document *all[64];
    size_t n = 0;
    assert_ok(tokenizer_open(&tokenizer, "examples/tiny-glm5/tokenizer.json"));
    assert_ok(questions_open(&questions, "tests/fixtures/eval/choices.jsonl", tokenizer, &(ChatOptions){0}, 512));
    for (size_t i = 0; i < questions_count(questions); i++)
        for (size_t c = 0; c < questions_get(questions, i)->n_choices; c++)
            all[n++] = &questions_get(questions, i)->choices[c];
    assert_ok(evaluate(&scores, model, 1, (const Adapter *[]){NULL}, n, all, &(EvaluateConfig){0}));
    assert_ok(json_read_file(&root, "tests/fixtures/eval/choices.json"));
    const Json *expected = json_first(root);
    n = 0;
    for (size_t i = 0; i < questions_count(questions); i++, expected = json_next(expected)) {
        const Question *q = questions_get(questions, i);
        check_question(expected, q, scores.variants[0].documents + n);
        n += q->n_choices;
    }
    static const size_t right[] = {0, 1, 0, 1}; /* an index, a letter, a text, an index */
    for (size_t i = 0; i < 4; i++) assert_int_equal(questions_get(questions, i)->answer, right[i]);
    assert_string_equal(questions_get(questions, 0)->domain, "animals");
    assert_null(questions_get(questions, 1)->domain);
    json_free(root);
    scores_free(&scores);
    questions_close(questions);
    tokenizer_close(tokenizer);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_numpy_on_transformers_logits), cmocka_unit_test(company_changes_no_bit),
        cmocka_unit_test(a_fresh_adapter_is_no_distance_from_the_base),     cmocka_unit_test(intervals_are_numpys),
        cmocka_unit_test(choices_are_as_likely_as_transformers_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
