# The front desk: every target is one line that calls a script or a command.
# What is given here (make train RECIPE=demo RUN=mine) reaches them as environment variables, never through a shell.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

.PHONY: help setup demo doctor plan data inspect download demo-model test-model debug-model train train-cpu \
        train-cpu-background train-h100 train-qlora train-adapter train-ptuning train-peft-v3 train-mps pipeline \
        search-rate runs report status watch tensorboard logs stop resume compare reproduce soak optimize evaluate \
        bench chat export publish bench-generate bench-data bench-overhead bench-plan bench-gpu clean test lint \
        format

##@ Begin here
help: ## this list
	@awk -f scripts/help.awk $(firstword $(MAKEFILE_LIST))
setup: ## make the Python environment (PYTHON=, TORCH_INDEX_URL=)
	@scripts/setup.sh
demo: ## train the demo recipe in the background, compare three models, show the verdict
	@scripts/demo.sh
doctor: ## check this machine and what a recipe needs (RECIPE=demo RUN= TRAIN= VAL= MODEL= REVISION= NUM_GPUS= OUTPUT= SET= SMOKE=1)
	@scripts/call.sh doctor RECIPE= MODEL=--model REVISION=--revision NUM_GPUS=--num-gpus TRAIN=--train VAL=--val OUTPUT=--output SET=--set RUN=--run SMOKE=--smoke!
plan: ## how long a training takes, how much memory and disk, before anything is loaded (RECIPE=demo MODEL= REVISION= TRAIN= VAL= NUM_GPUS= SET= RUN= SMOKE=1 JSON=1)
	@scripts/call.sh plan RECIPE=--recipe MODEL=--model REVISION=--revision NUM_GPUS=--num-gpus TRAIN=--train VAL=--val OUTPUT=--output SET=--set RUN=--run SMOKE=--smoke! JSON=--json!

##@ Data and models
data: ## write the sample data that recipes train on (RECIPE=all FORCE=1)
	@scripts/make_data.sh
inspect: ## look at data before training: shapes, lengths, what is odd, two examples (RECIPE= or DATA= VAL= TEST= MODEL= DATA_COLUMNS="prompt=Question completion=Answer" PLAIN=1 ON_BAD_ROW=drop ON_OVERLONG= ALLOW_LEAK=1 ALLOW_EMPTY= …)
	@scripts/call.sh inspect_data DATA= VAL=--validation TEST=--test RECIPE=--recipe MODEL=--model DATA_COLUMNS=--columns PLAIN=--plain! ON_BAD_ROW=--on-bad-row ON_OVERLONG=--on-overlong ALLOW_LEAK=--allow-leak! ALLOW_EMPTY=--allow-empty! ALLOW_DUPLICATES=--allow-duplicates! ALLOW_SECRETS=--allow-secrets!
download: ## fetch a model from the hub, once (MODEL=org/name REVISION=)
	@scripts/call.sh download_model MODEL= REVISION=--revision
demo-model: ## build the demo recipe's model anew, from nothing
	@scripts/call.sh make_demo_model -- --output recipes/demo/model --seed 42 --force

test-model: ## talk to a model, an adapter or an epoch's checkpoint, or to two side by side (MODEL= AGAINST= BATCH=1)
	@scripts/call.sh test_model MODEL=--model AGAINST=--model BATCH=--batch!
debug-model: ## what is wrong with GPUs, settings or model, with remedies (RECIPE=frida-h100 MODEL= NUM_GPUS= NCCL=1 SMOKE=1)
	@scripts/call.sh debug_model NCCL=--nccl! RECIPE=--recipe MODEL=--model NUM_GPUS=--num-gpus SMOKE=--smoke!

##@ Train
train: ## train a recipe here (RECIPE= RUN= TRAIN= VAL= MODEL= REVISION= OUTPUT= SET=group.key=value SMOKE=1)
	@scripts/train.sh
train-cpu: ## the same for recipe ba-cpu, or RECIPE=
	@scripts/train.sh --default-recipe ba-cpu
train-cpu-background: ## the same in the background: it outlives the terminal (MAX_RESTARTS=0)
	@scripts/train_background.sh --default-recipe ba-cpu
train-h100: ## recipe frida-h100 with DeepSpeed (NUM_GPUS=8 BACKGROUND=1 RESUME=1 FORCE=1 HOSTFILE= TRAIN= VAL= MODEL= RUN= SET= SMOKE=1)
	@scripts/launch_training.sh

train-qlora: ## medical questions with QLoRA, the base in 4 bits (the variables of train)
	@scripts/train.sh --default-recipe medical-qlora
train-adapter: ## the same with bottleneck adapters
	@scripts/train.sh --default-recipe medical-adapter
train-ptuning: ## the same with p-tuning
	@scripts/train.sh --default-recipe medical-ptuning
train-peft-v3: ## recipe utn-qlora: Llama-3.2-3B with QLoRA on one 8 GB card, through TRL
	@scripts/train.sh --default-recipe utn-qlora
train-mps: ## recipe yoda-mps: Phi-3-mini on a Mac, a CUDA card or a CPU, through TRL
	@scripts/train.sh --default-recipe yoda-mps
pipeline: ## data, the three medical trainings and their evaluation; what is done is not done again (DATA= MODEL= OUTPUT= SMOKE=1)
	@scripts/call.sh run_all DATA=--input_data MODEL=--model_name OUTPUT=--output_dir SMOKE=--smoke!
search-rate: ## train a recipe once a learning rate and compare on its validation data (RECIPE= RATES="1e-4 3e-4" SEEDS= SMOKE=1)
	@scripts/call.sh search_rate RECIPE=--recipe RATES=--rates SEEDS=--seeds SMOKE=--smoke!

##@ Runs
runs: ## all runs with their results, or some side by side with the settings in which they differ (RUNS="one another" JSON=1)
	@scripts/call.sh list_runs RUNS= JSON=--json!
report: ## report.html of a run, written anew: what was asked, what happened, what to do with it (RUN=)
	@scripts/call.sh write_report RUN=--run
status: ## every run: state, progress, speed, time left, memory, last log lines (RUN= JSON=1)
	@scripts/call.sh status RUN=--run JSON=--json!
watch: ## the same, live on the terminal: bar, losses, speed, time left, memory, next save, last warning (RUN= EVERY=1)
	@scripts/call.sh status RUN=--run EVERY=--every -- --watch
tensorboard: ## the curves of all runs, or of one, in a browser on this machine (RUN= PORT=6006)
	@scripts/call.sh open_tensorboard RUN=--run PORT=--port
logs: ## the log of a run, followed while it runs (RUN= LINES=20 FOLLOW=0)
	@scripts/logs.sh
stop: ## save and end a run (RUN= GRACE=seconds)
	@scripts/call.sh stop_run RUN=--run GRACE=--grace
resume: ## continue a run in the background (RUN= FORCE=1)
	@scripts/call.sh resume_run RUN=--run FORCE=--force! HOSTFILE=--hostfile
compare: ## plain, prompted and tuned model side by side, with a verdict (RUN=, or BASELINE= FINETUNED= DATASET= TRAIN=, OPTIMIZED=program METRIC=module:function ADOPT_SCORE=0.9 ADOPT_GAIN=0.05 FOURTH=1 FRESH=1 GATE=1)
	@scripts/call.sh compare_ba_models RUN=--run RECIPE=--recipe SMOKE=--smoke! BASELINE=--baseline OPTIMIZED=--optimized FINETUNED=--finetuned METRIC=--metric ADOPT_SCORE=--adopt-score ADOPT_GAIN=--adopt-gain DATASET=--dataset TRAIN=--train OUTPUT=--output FOURTH=--fourth-arm! FRESH=--fresh! GATE=--gate!
reproduce: ## train a finished run again from its manifest alone and compare the bytes (RUN=, FORCE=1)
	@scripts/call.sh reproduce_run RUN=--run FORCE=--force! HOSTFILE=--hostfile
soak: ## kill a training again and again, resume it, compare its bytes with an undisturbed one's (KILLS=20 SEED=0 RECIPE= SMOKE=1 SET=group.key=value)
	@scripts/call.sh soak KILLS=--kills SEED=--seed RECIPE=--recipe SMOKE=--smoke! SET=--set
optimize: ## search a better prompt with DSPy, on training rows only (RECIPE=, or MODEL= TRAIN= OUTPUT=, PROPOSER=model METRIC=module:function)
	@scripts/call.sh optimize_prompt RECIPE=--recipe MODEL=--model TRAIN=--train OUTPUT=--output PROPOSER=--proposer METRIC=--metric
evaluate: ## a base and its tuned models on the same test items, with a recommendation (QLORA= ADAPTER= PTUNING= TEST= BASE= OUTPUT= CHECK_MERGE=1 MAX_MEMORY_GIB= MAX_ADAPTER_MIB= MIN_TOKEN_F1=)
	@scripts/call.sh evaluate_models QLORA=--qlora_model ADAPTER=--adapter_model PTUNING=--ptuning_model TEST=--test_data BASE=--base_model OUTPUT=--output_file CHECK_MERGE=--check_merge! MAX_MEMORY_GIB=--max_memory_gib MAX_ADAPTER_MIB=--max_adapter_mib MIN_TOKEN_F1=--min_token_f1
chat: ## talk to a finished run (RUN= MAX_TOKENS=256 TEMPERATURE=0 BATCH=1)
	@scripts/call.sh test_model RUN=--run MAX_TOKENS=--max-new-tokens TEMPERATURE=--temperature BATCH=--batch! -- --finished
export: ## merged weights, verified, with what Ollama, vLLM and llama.cpp need (RUN= OUTPUT= DTYPE=bf16|fp32 FORCE=1)
	@scripts/call.sh export_model RUN=--run OUTPUT=--output DTYPE=--dtype FORCE=--force!
publish: ## put a finished run on the hub, after a look at what would go there (RUN= REPO=org/name DRY_RUN=1 BASE= LICENSE= PUBLIC=1 FORCE=1 YES=1)
	@scripts/call.sh publish_run RUN=--run REPO=--repo DRY_RUN=--dry-run! TOKEN=--token BASE=--base LICENSE=--license PUBLIC=--public! FORCE=--force! YES=--yes!
bench: ## this project's CPU training beside its peers', on this machine (MODEL= LAYERS=4 STEPS=2 REPEATS=3)
	@scripts/call.sh bench MODEL=--model LAYERS=--layers STEPS=--steps REPEATS=--repeats
bench-generate: ## answering in batches beside one by one and plain batches (MODEL=)
	@scripts/call.sh bench_generate MODEL=--model
bench-data: ## reading, checking and tokenising a million rows beside datasets.map (ROWS= MODEL=)
	@scripts/call.sh bench_data ROWS=--rows MODEL=--model
bench-overhead: ## the share of a training's time that commits and status take (RECIPE= SMOKE=1)
	@scripts/call.sh bench_overhead RECIPE=--recipe SMOKE=--smoke!
bench-plan: ## plans beside the trainings they are of: memory and time (STEPS=4)
	@scripts/call.sh bench_plan STEPS=--steps
bench-gpu: ## LoRA training of a 7B's shape on a CUDA GPU beside TRL (STEPS=10 DEVICE=cuda SHAPE=mistral-7b or small)
	@scripts/call.sh bench_gpu STEPS=--steps DEVICE=--device SHAPE=--shape
clean: ## remove a run that is not running (RUN=), or caches only
	@scripts/clean.sh

##@ Checks
test: ## all tests (TESTS=path)
	@scripts/test.sh
lint: ## ruff, shellcheck, shfmt, a scan for secrets
	@scripts/lint.sh
format: ## let ruff and shfmt put it right
	@scripts/lint.sh --fix
