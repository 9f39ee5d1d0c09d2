# graft: `make help` lists the targets.
# The source layout is in README.md. A folder includes only from itself and from folders before it in LAYERS.
LAYERS   := base plot tensor autograd model data/text data/tokenizer data/chat data/records optim ckpt infer plan train bench cli
SIBLINGS := model data optim ckpt
BUILD    ?= build
CC       := gcc
PACKAGES := build-essential pkg-config clang clang-format libomp-dev libopenmpi-dev openmpi-bin libhdf5-dev \
            libcjson-dev libpng-dev libfreetype-dev fonts-dejavu-core libcmocka-dev libpcre2-dev libutf8proc-dev zlib1g-dev libzstd-dev \
            libedit-dev
LIBRARIES := ompi-c hdf5 libcjson libpng freetype2 libpcre2-8 libutf8proc zlib libzstd libedit

WARN   := -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wformat=2 -Werror
# A product and a sum are two roundings everywhere; kernels ask for fused ones by name.
CFLAGS ?= -O2 -g
# pkg-config is asked once, at the first use: `make deps` must also run where it is missing.
HEADERS = $(eval HEADERS := $(shell pkg-config --cflags $(LIBRARIES)))$(HEADERS)
LIBS    = $(eval LIBS := $(shell pkg-config --libs $(LIBRARIES)) -lm)$(LIBS)
CMOCKA  = $(eval CMOCKA := $(shell pkg-config --libs cmocka))$(CMOCKA)
FLAGS   = -std=gnu11 $(CFLAGS) $(WARN) -I. -MMD -MP -fopenmp -ffp-contract=off $(SANITIZE) $(HEADERS)

KERNELS  := avx512 avx2 plain
PRODUCTS := bf16 $(KERNELS)
avx512   := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma
bf16     := $(avx512) -mavx512bf16 -DKERNEL_avx512
avx2     := -mavx2 -mfma
ARCH     := $(shell uname -m)
ifneq ($(ARCH),x86_64)
KERNELS  := plain
PRODUCTS := plain
endif

BY_WORDS  := kernel_gemm kernel_gemm_few kernel_block kernel_attention kernel_latent
BY_FLOATS := kernel_row_ops kernel_lora kernel_gemm_tn kernel_index
SOURCES := $(filter-out $(patsubst %,tensor/%.c,$(BY_WORDS) $(BY_FLOATS)),$(wildcard $(LAYERS:=/*.c)))
LIBOBJ  := $(patsubst %.c,$(BUILD)/%.o,$(filter-out cli/%,$(SOURCES))) $(foreach f,$(BY_WORDS),$(PRODUCTS:%=$(BUILD)/tensor/$(f)_%.o)) \
           $(foreach f,$(BY_FLOATS),$(KERNELS:%=$(BUILD)/tensor/$(f)_%.o))
CLIOBJ  := $(patsubst %.c,$(BUILD)/%.o,$(filter cli/%,$(SOURCES)))
UNITS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard $(LAYERS:%=tests/%/*.c) tests/fuzz/*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c))
BENCHES := $(patsubst %.c,$(BUILD)/%,$(wildcard bench/tools/*.c))
TOOLS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(filter-out tests/words.c,$(wildcard tests/*.c)))
SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/support/*.c))

all: $(BUILD)/graft

$(BUILD)/libgraft.a: $(LIBOBJ)
	@rm -f $@
	@ar rcs $@ $^

$(BUILD)/graft: $(CLIOBJ) $(BUILD)/libgraft.a
	@echo "  link  $@"
	@$(CC) $(FLAGS) $^ $(LIBS) -o $@

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  cc    $<"
	@$(CC) $(FLAGS) -c $< -o $@

define kernel
$(BUILD)/tensor/$(1)_$(2).o: tensor/$(1).c
	@mkdir -p $$(@D)
	@echo "  cc    $$< ($(2))"
	@$$(CC) $$(FLAGS) -O3 $$($(2)) -DKERNEL=$(2) -DKERNEL_$(2) -c $$< -o $$@
endef
$(foreach f,$(BY_WORDS),$(foreach k,$(PRODUCTS),$(eval $(call kernel,$(f),$(k)))))
$(foreach f,$(BY_FLOATS),$(foreach k,$(KERNELS),$(eval $(call kernel,$(f),$(k)))))

$(BUILD)/optim/adamw.o: CFLAGS += -fno-math-errno # so that sqrtf is an instruction in a vectorised loop

$(UNITS) $(TOOLS): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(SUPPORT) $(BUILD)/libgraft.a
	@mkdir -p $(@D)
	@$(CC) $(FLAGS) $^ $(LIBS) $(CMOCKA) -o $@

$(BENCHES): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libgraft.a
	@$(CC) $(FLAGS) $^ $(LIBS) -o $@

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

## deps       install what is missing (Debian, Ubuntu); elsewhere name it
deps:
	@sh deps.sh $(PACKAGES)

## test       every test of the product, without downloads; six minutes at most
test: deps
	@$(MAKE) --no-print-directory all units tools
	@$(MAKE) --no-print-directory run-units run-tools

## same_bits  train one run in every way that it can be shared out: one SHA-256 (COMPUTE=bf16 for that path)
COMPUTE ?= fp32
same_bits: $(BUILD)/graft $(BUILD)/tests/same_bits
	@$(BUILD)/tests/same_bits $(BUILD)/graft examples/tiny-glm5 examples/devils/devils_eval.jsonl $(COMPUTE)

## same_bits_long  the same with twenty kills at random moments (SAME_BITS_KEY=KEY repeats those of a run), and kills while a checkpoint is written
same_bits_long: $(BUILD)/graft $(BUILD)/tests/same_bits
	@$(BUILD)/tests/same_bits $(BUILD)/graft examples/tiny-glm5 examples/devils/devils_eval.jsonl $(COMPUTE) 20

## interop-train  the real TensorBoard (PyPI, a throw-away environment) reads a run's event files
interop-train: $(BUILD)/graft
	@sh tests/interop/train.sh $(BUILD)/graft

## fidelity   compare with transformers' float64 values, every one of them
fidelity: $(BUILD)/tests/fidelity
	@for c in fp32 bf16; do \
	    $(BUILD)/tests/fidelity --compute $$c $(sort $(dir $(wildcard tests/fixtures/model/*/config.json))) || exit 1; done
	@sh tests/fidelity.sh $(BUILD)/tests/fidelity

# As graft does for itself: threads that spin for each other make a step several times slower beside other work.
ifndef OMP_WAIT_POLICY
fidelity same_bits same_bits_long: export GOMP_SPINCOUNT ?= 1000
endif

run-tools: fidelity same_bits
	@for t in glm5shaped qwen3 removed deepseek; do \
	    $(BUILD)/tests/tokenizer_cases tests/fixtures/tokenizer/$$t.tokenizer.json.gz tests/fixtures/tokenizer/$$t.encode.jsonl tests/fixtures/tokenizer/$$t.decode.jsonl || exit 1; done
	@$(BUILD)/tests/tokenizer_cases examples/tiny-glm5/tokenizer.json tests/fixtures/tokenizer/tinyglm5.encode.jsonl tests/fixtures/tokenizer/tinyglm5.decode.jsonl
	@for c in cases later; do $(BUILD)/tests/chat_cases tests/fixtures/chat_template/$$c.jsonl || exit 1; done

units: $(UNITS)
tools: $(TOOLS)
run-units: units $(BUILD)/graft
	@GRAFT=$(BUILD)/graft sh tests/run.sh $(UNITS)

## fuzz       random bytes for every reader, FUZZ_SECONDS each (clang; libclang-rt-dev)
FUZZ_SECONDS ?= 60
fuzz:
	@$(MAKE) --no-print-directory CC=clang BUILD=build/fuzz SANITIZE="-DFUZZING -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -Wno-pass-failed" fuzzers
	@for f in $(FUZZERS); do mkdir -p build/fuzz/found/$$f; echo "  fuzz  $$f"; \
	    build/fuzz/fuzz_$$f -max_total_time=$(FUZZ_SECONDS) -use_value_profile=1 -verbosity=0 -print_final_stats=1 \
	    $$(test -f tests/fuzz/$$f.dict && echo -dict=tests/fuzz/$$f.dict) -artifact_prefix=build/fuzz/found/$$f- build/fuzz/found/$$f tests/fuzz/corpus/$$f || exit 1; done
fuzzers: $(FUZZERS:%=$(BUILD)/fuzz_%)
$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz/%.o $(SUPPORT) $(BUILD)/libgraft.a
	@$(CC) $(FLAGS) -fsanitize=fuzzer $^ $(LIBS) $(CMOCKA) -o $@

## bench      speed as shares of what this machine can do: products, operations, steps; makes models of 2.5 GB in build/bench
bench: $(BUILD)/graft $(BENCHES)
	@mkdir -p $(BUILD)/bench
	@$(BUILD)/graft bench --directory $(BUILD)/bench --json $(BUILD)/bench/results.jsonl
	@$(BUILD)/graft plot $(BUILD)/bench/results.jsonl --kind roofline --output $(BUILD)/bench/roofline.png
	@$(BUILD)/graft plot $(BUILD)/bench/results.jsonl --kind timing --output $(BUILD)/bench/timing.png
	@OMP_NUM_THREADS=1 $(BUILD)/bench/tools/attention
	@$(BUILD)/bench/tools/tokenizer

## bench-steady  300 training steps: does their time stay constant, and memory flat?
bench-steady: $(BUILD)/graft
	@[ -f $(BUILD)/bench/S/config.json ] || $(BUILD)/graft bench $(BUILD)/bench/S --make S --seed 0
	@$(BUILD)/graft bench $(BUILD)/bench/S --steps 300

## bench-tokenizer  how fast tokenizer.json opens and text is encoded
bench-tokenizer: $(BUILD)/bench/tools/tokenizer
	@$(BUILD)/bench/tools/tokenizer

## race       speed beside transformers and peft on the same files, tokens and adapter, losses compared first (downloads 6 GB of PyPI)
race: $(BUILD)/graft
	@sh bench/race/race.sh $(BUILD)/graft $(BUILD)/race

## interop-data  random strings against PyPI's tokenizers (downloads it)
INTEROP_STRINGS ?= 100000
interop-data: $(BUILD)/tests/tokenizer_ids
	@sh tests/interop/data.sh $(BUILD)/tests/tokenizer_ids $(INTEROP_STRINGS)

## interop-chat  random conversations against Jinja2 (downloads it); TEMPLATES=DIR adds glm51.jinja, glm52.jinja, deepseek_v3.jinja from there
INTEROP_CONVERSATIONS ?= 10000
TEMPLATES ?=
interop-chat: $(BUILD)/tests/chat_cases
	@sh tests/interop/chat.sh $(BUILD)/tests/chat_cases $(INTEROP_CONVERSATIONS) $(TEMPLATES)

## check      source layout, links, headers, format, gcc and clang without a warning, sanitizers
check: words layers links source headers format clang asan

## clang      everything compiles under clang without a warning
CLANG = clang $(filter-out -MMD -MP,$(FLAGS)) -fsyntax-only
clang:
	@for f in $(SOURCES) $(wildcard tests/*.c tests/*/*.c tests/data/*/*.c bench/tools/*.c); do $(CLANG) $$f || exit 1; done
	@$(foreach f,$(BY_WORDS),$(foreach k,$(PRODUCTS),$(CLANG) $($(k)) -DKERNEL=$(k) -DKERNEL_$(k) tensor/$(f).c &&)) :
	@$(foreach f,$(BY_FLOATS),$(foreach k,$(KERNELS),$(CLANG) $($(k)) -DKERNEL=$(k) -DKERNEL_$(k) tensor/$(f).c &&)) :
	@echo "clang: no warning"

## asan       the unit tests under address and undefined-behaviour sanitizers
asan:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan CFLAGS="-O1 -g -fno-omit-frame-pointer" \
	    SANITIZE="-fsanitize=address,undefined -fno-sanitize-recover=undefined" run-units

## demo       train an adapter on the bundled base with two ranks, evaluate, generate, draw the curves
demo: deps
	@$(MAKE) --no-print-directory all
	@sh examples/demo.sh $(BUILD)/graft runs/demo

## experiment-which-experts  LoRA on attention, on all routed experts or on the shared one: nine runs, half an hour
experiment-which-experts: deps
	@$(MAKE) --no-print-directory all
	@sh experiments/which-experts/run.sh $(BUILD)/graft runs/which-experts

## experiment-router-balance  what evens the load of experts, balance losses or a bias: seven runs, ten minutes
experiment-router-balance: deps
	@$(MAKE) --no-print-directory all
	@sh experiments/router-balance/run.sh $(BUILD)/graft runs/router-balance

## layers     includes follow the source layout, and each library has one wrapper
layers:
	@sh tests/layers.sh "$(LAYERS)" "$(SIBLINGS)"

## words      no word that tests/words.txt has replaced (sh tests/words.sh PATH... looks only there)
words:
	@sh tests/words.sh
$(BUILD)/tests/words: tests/words.c
	@mkdir -p $(@D)
	@$(CC) $(FLAGS) $< $(shell pkg-config --libs libpcre2-8) -o $@

## source     every .c file opens with a comment and is not too long, no cast takes const away (sh tests/source.sh PATH...)
source:
	@sh tests/source.sh

## links      every link and every path in the documents exists
links:
	@sh tests/links.sh

## format     every C file is laid out as .clang-format says (`clang-format -i FILE` does it)
format:
	@clang-format --dry-run -Werror $(shell git ls-files '*.c' '*.h')
	@echo "format: as .clang-format says"

## headers    every header compiles alone
headers:
	@for h in $(wildcard $(LAYERS:=/*.h) tests/support/*.h); do \
	    echo "#include \"$$h\"" | $(CC) $(FLAGS) -MF /dev/null -fsyntax-only -x c - || exit 1; done
	@echo "headers: each compiles alone"

compile_commands.json: Makefile
	@( echo '['; sep=''; for f in $(SOURCES); do printf '%s{"directory":"%s","file":"%s","command":"%s"}' "$$sep" "$(CURDIR)" "$$f" \
	   "$(CC) $(filter-out -MMD -MP,$(FLAGS)) -c $$f"; sep=','; done; echo ']' ) > $@

clean:
	rm -rf build

## help       this list
help:
	@grep -h '^## ' Makefile | sed 's/^## /  make /'

.PHONY: all links format check clang asan demo fidelity same_bits same_bits_long interop-train deps test units tools run-units run-tools fuzz fuzzers bench bench-steady bench-tokenizer race layers words source headers clean help interop-data interop-chat experiment-which-experts experiment-router-balance
.SECONDARY:
