/* The schedule of experts refuses what does not fit, whichever expert it is. */
#include "autograd/expert_schedule.h"
#include "tests/support/gradients.h"

#include "tensor/dispatch.h"

/* Two experts with LoRA that fit x [3][4]; each check makes one thing wrong. */
typedef struct {
    float values[64];
    Weight gate, up, down;
    Param A, B, C, D;
    Lora in, out;
    Expert experts[2];
    int32_t ids[6];
    size_t rows, cols, weight_rows, E;
} Misfit;

static void misfit_init(Misfit *m)
{
    *m = (Misfit){.ids = {0, 1, 0, 1, 0, 1}, .rows = 3, .cols = 4, .weight_rows = 3, .E = 2};
    m->gate = weight_of("gate", 5, 4, m->values);
    m->up = weight_of("up", 5, 4, m->values);
    m->down = weight_of("down", 4, 5, m->values);
    m->A = (Param){.name = (char *)"in.A", .rows = 2, .cols = 4, .data = m->values};
    m->B = (Param){.name = (char *)"in.B", .rows = 10, .cols = 2, .data = m->values};
    m->C = (Param){.name = (char *)"out.A", .rows = 2, .cols = 5, .data = m->values};
    m->D = (Param){.name = (char *)"out.B", .rows = 4, .cols = 2, .data = m->values};
    m->in = (Lora){.A = &m->A, .B = &m->B};
    m->out = (Lora){.A = &m->C, .B = &m->D};
    m->experts[0] = m->experts[1] = (Expert){&m->gate, &m->up, &m->down, &m->in, &m->out};
}

static void refused(Misfit *m, const char *part)
{
    Tape tape = {0};
    Group group = group_init(1, (size_t[]){0, 3}, 1, (size_t[]){0, 3});
    tape_begin(&tape, &group, TAPE_RECORD);
    Tensor *x = tape_leaf(&tape, m->rows, m->cols, m->values, true),
           *w = tape_leaf(&tape, m->weight_rows, 2, m->values, true);
    Tensor *y = op_experts(&tape, x, (Route){m->ids, w}, m->E, m->experts, NULL);
    if (!part)
        assert_ok(tape_error(&tape));
    else {
        assert_ptr_equal(y, &tape.dummy);
        assert_fails(tape_error(&tape), ERR_FORMAT, part);
    }
    tape_free(&tape);
}

static void what_does_not_fit_is_an_error(void **state)
{
    (void)state;
    Misfit m;
    Weight wrong;
    misfit_init(&m);
    refused(&m, NULL);
    m.cols = 3, refused(&m, "experts: x is [3][3], gate [5][4]"), misfit_init(&m);
    m.weight_rows = 2, refused(&m, "2 rows of weights"), misfit_init(&m);
    m.rows = m.weight_rows = 2, refused(&m, "experts: 2 rows, 3 tokens"), misfit_init(&m);
    m.E = 0, refused(&m, "experts: there are none"), misfit_init(&m);
    for (size_t e = 0; e < 2; e++) { /* whichever expert it is */
        wrong = weight_of("wrong", 4, 6, m.values);
        m.experts[e].down = &wrong, refused(&m, "down [4][6]"), misfit_init(&m);
        wrong = weight_of("wrong", 6, 4, m.values);
        m.experts[e].up = &wrong, refused(&m, "up [6][4]"), misfit_init(&m);
        wrong = weight_of("wrong", 5, 3, m.values);
        m.experts[e].gate = &wrong, refused(&m, "gate [5][3]"), misfit_init(&m);
    }
    m.in.col = 1, refused(&m, "in.A: A [2][4], B [10][2] at column 1"), misfit_init(&m);
    m.A.cols = 3, refused(&m, "in.A: A [2][3], B [10][2]"), misfit_init(&m);
    m.B.cols = 3, refused(&m, "in.A: A [2][4], B [10][3]"), misfit_init(&m);
    m.C.cols = 6, refused(&m, "out.A: A [2][6], B [4][2]"), misfit_init(&m);
    m.D.rows = 5, refused(&m, "out.A: A [2][5], B [5][2]"), misfit_init(&m);
    m.out.col = 1, refused(&m, "out.A: A [2][5], B [4][2] at column 1"), misfit_init(&m);
    m.ids[3] = 2, refused(&m, "experts: id 2 of 2"), misfit_init(&m);
    m.ids[0] = -1, refused(&m, "experts: id -1 of 2"), misfit_init(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_not_fit_is_an_error),
    };
    dispatch_init("fp32");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
