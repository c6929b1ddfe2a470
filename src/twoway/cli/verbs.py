"""The table of verbs: what each takes, its settings, the function that runs it, and an example, in the order a newcomer needs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Argument = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Verb:
    """One verb. Its options are the fields of its class of settings; what a setting is not stands among the arguments."""

    help: str
    example: str
    run: str = ""  # module of this package and function: (parsed words) -> exit code
    config: str = ""  # the class of its settings
    arguments: tuple[Argument, ...] = ()
    file: bool = False  # whether settings also come from the YAML file that --recipe names
    actions: Mapping[str, Verb] = field(default_factory=dict)  # verbs of its own


def arg(*names: str, **how: Any) -> Argument:
    """Describe an argument as argparse takes it."""
    return names, how


JSON = arg("--json", action="store_true", help="answer in JSON")
MODEL = arg("model", metavar="MODEL", help="a folder or a hub id")
WORDS = arg("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the file")
TRAINING = (
    arg("base", metavar="BASE", help="hub id or folder of the model to start from"),
    arg("out", metavar="OUT", help="folder of the run; new, or a run to go on with"),
    WORDS,
    arg("--recipe", metavar="FILE", help="settings and data in a YAML file"),
    arg("--nproc", metavar="N", type=int, default=1, help="start N ranks on this machine"),
    arg("--force", action="store_true", help="go on although settings, base or data have changed"),
    JSON,
)
WHAT = arg("what", metavar="WHAT", help="a recipe, or one source")
LISTED = arg("--json", action="store_true", help="answer in JSON, every bad row in it")

VERBS: dict[str, Verb] = {}

VERBS["convert"] = Verb(
    """Turn a vision-language model into a two-way embedding model that sentence-transformers loads.

SRC is a hub id or a folder: a causal vision-language model, a sentence-transformers model, a PEFT adapter (merged into its base),
or a checkpoint as MoCa's or CoCoA's trainer saves it, whose pooling and way of writing inputs are kept. OUT is a plain
sentence-transformers checkpoint with a model card; its attention is measured, not assumed, and the model is refused where it is not
what was asked for.""",
    """twoway convert Qwen/Qwen2-VL-2B-Instruct my-model --prompts "query=Find a picture of " --max-length 2048
  twoway convert moca-checkpoint my-model --processor Qwen/Qwen2.5-VL-3B-Instruct""",
    "models.run_convert",
    "twoway.methods.config.ConvertConfig",
    (
        arg("src", metavar="SRC", help="hub id or folder"),
        arg("out", metavar="OUT", help="folder to write; it must not exist"),
        arg("--recipe", metavar="FILE", help="settings in a YAML file (max_length: 2048); options given here win"),
        arg("--overwrite", action="store_true", help="replace OUT once the new one is whole"),
        JSON,
    ),
    file=True,
)
VERBS["check"] = Verb(
    """Prove what a model's attention does: change later tokens, later images and the padding, and see which earlier states move.

For a transformers or sentence-transformers model, ours or not, text or vision-language. Every attention backend of this machine is tried,
unpadded and padded on either side. Exits with 1 where the model is not what it declares (in twoway.json, else in its config, else causal).

With --bridge the mask of the bridge stage is proved instead, on rows A [EOS] B: whatever changes in A, B moves only through EOS.""",
    """twoway check samples/base
  twoway check my-model --expect two-way --backends sdpa eager
  twoway check my-model --bridge""",
    "models.run_check",
    "twoway.proof.config.CheckConfig",
    (
        MODEL,
        arg("--bridge", action="store_true", help="prove the bridge mask on a two-way model, with each of its options"),
        arg("--json", action="store_true", help="print the whole report, with every number, for a program"),
    ),
)
VERBS["info"] = Verb(
    """Say what a model is: family, sizes by part, attention as measured, pooling, mask token, prompts, provenance.

For a transformers or sentence-transformers model, ours or not. Attention is measured under sdpa and without padding; 'twoway check' proves
it under every backend. By default for people; --json for programs.""",
    "twoway info samples/base",
    "models.run_info",
    arguments=(MODEL, arg("--json", action="store_true", help="print everything as JSON, for a program")),
)
VERBS["data"] = Verb(
    """Look at training data before any training, or find out once what training needs to know of it.""",
    """twoway data check recipes/nano-pretrain.yaml --model samples/base
  twoway data prepare recipes/nano-moca.yaml --processes 2""",
    actions={
        "check": Verb(
            """Open every source, count, show a row, and list what is bad.

WHAT is a recipe (a YAML file) or one source, as --data takes it. With --model a row of each source is shown as that model sees it: the
decoded prompt, the grid of each picture, and its tokens by kind. Pairs (a recipe of finetune, or --pairs) are measured side by side; rows
whose query is nearly their answer are listed, and with --against those that hold a text or picture of an evaluation set, pictures that
look the same included. Exit code 1 where a row is bad or a source cannot be opened; what is suspect is listed and no error.""",
            """twoway data check recipes/nano-pretrain.yaml --model samples/base
  twoway data check captions.jsonl --decode
  twoway data check samples:train --pairs --against samples:test --model samples/base""",
            "data.run_check",
            "twoway.recipes.config.CheckDataConfig",
            (WHAT, WORDS, LISTED),
        ),
        "prepare": Verb(
            """Find out once what training needs to know of its data: where each row is, how long it is, what is bad.

It runs on any machine, without a GPU, in several processes; training with the same data then begins at once, in every stage, arm and run.
WHAT is a recipe (every source of every stage is prepared as that stage reads it) or one source, as --data takes it. With a model (the
recipe's base, or --model) rows are measured with its processor; its weights are not loaded. Streams of the hub are copied up to their cap,
and training then needs no network. What is there already is kept, and a call that was cut off goes on. It lies in the cache: $TWOWAY_CACHE,
or ~/.cache/twoway, or --cache-dir (training: cache_dir=DIR). Rows that are cut at max_length are listed; exit code 1 where a row is bad or
lost (a picture that no row has room for), or a source cannot be opened or would lose more than max_bad_share of its rows.""",
            "twoway data prepare recipes/moca-3b.yaml",
            "data.run_prepare",
            "twoway.recipes.config.PrepareConfig",
            (WHAT, WORDS, LISTED),
        ),
    },
)
VERBS["pretrain"] = Verb(
    """Teach a vision-language model two-way attention: it restores masked words and masked patches (MoCa's first stage).

BASE is a hub id or a folder, a plain model or one that convert made. OUT becomes a two-way checkpoint as convert makes it, with the
heads kept beside it. Settings are key=value words over a recipe (a YAML file): max_steps, learning_rate, seed, dtype, budget, mask.words,
lora.r and so on; OUT/config.yaml shows them all. The same command goes on where it stopped, also after a kill, and says so when all is
done. objective=causal is the control of equal compute: plain next-token training on the same rows, and OUT stays causal.""",
    """twoway pretrain samples/base out --data samples:pretrain max_steps=12 save_steps=3 seed=1
  twoway pretrain Qwen/Qwen2.5-VL-3B-Instruct out --recipe recipes/moca-3b-pretrain.yaml --nproc 8
  torchrun --nproc-per-node 8 --nnodes 4 … -m twoway pretrain BASE out --recipe R   (several machines)""",
    "training.run_pretrain",
    "twoway.methods.pretrain.config.PretrainConfig",
    TRAINING,
    file=True,
)
VERBS["bridge"] = Verb(
    """Teach a two-way model to put all it reads into one token: B is restored through EOS alone (CoCoA's second stage).

Rows become A [EOS] B. Of a pair, A is the query and B its positive; of a document, B is its last text and A the rest; a row of one text is
cut in two. 70% of B's words are masked and B sees nothing of A but EOS. BASE is two-way already (pretrain and convert make such a model),
and OUT a plain checkpoint pooled at EOS, with a report of what went through it. Settings are key=value words over a recipe (a YAML file):
eos_sees_target, sources_see_eos, mask.words, max_target, lora.r and so on; OUT/config.yaml shows them all. The same command goes on
where it stopped.""",
    """twoway bridge BASE out --data samples:pretrain max_steps=12
  twoway bridge BASE out --data pairs.jsonl --nproc 8 lora.r=8 lora.use_dora=true""",
    "training.run_bridge",
    "twoway.methods.bridge.config.BridgeConfig",
    TRAINING,
    file=True,
)
VERBS["finetune"] = Verb(
    """Teach a model which texts and pictures belong together, from pairs of a query and its answer, with or without hard negatives.

BASE is a hub id or a folder, a plain model or one that pretrain, bridge or convert made. OUT becomes an embedding model that
sentence-transformers loads. Rows have the columns query, positive and negatives (texts, pictures, or lists of parts), or a ready mapping
reads them (data: row_template). All rows of a step's batch belong to one task. Settings are key=value words over a recipe (a YAML file):
global_batch_size, learning_rate, loss.temperature, hard_negatives, attention, pooling, prompts.query, eval_steps and so on; OUT/config.yaml
shows them all. The same command goes on where it stopped, also after a kill, and says so when all is done.""",
    """twoway finetune samples/base out --data samples:train --eval-data samples:test max_steps=20 global_batch_size=64
  twoway finetune moca-cpt out --recipe recipes/moca-finetune.yaml --nproc 8
  twoway finetune Qwen/Qwen2-VL-2B-Instruct out --data pairs.jsonl attention=causal pooling=last   (as VLM2Vec does)
  twoway finetune Qwen/Qwen2-VL-2B-Instruct out --data pairs.jsonl late_interaction=true   (many vectors, as ColPali)""",
    "training.run_finetune",
    "twoway.methods.finetune.config.FinetuneConfig",
    TRAINING,
    file=True,
)
VERBS["rerank"] = Verb(
    """Teach a model to score how well a candidate answers a query, both read in one row: a reranker, from pairs with hard negatives.

BASE is a hub id or a folder: a plain vision-language model, one that pretrain or finetune made, or a reranker. OUT becomes a CrossEncoder
that sentence-transformers loads. Rows are those of finetune; each needs negatives, such as 'twoway mine' writes. A score is the logit of
yes less that of no by the model's own head, in the layout of Qwen3-VL-Reranker, or a new linear layer (head=linear). Settings are key=value
words over a recipe (a YAML file): loss, head, attention, hard_negatives, global_batch_size, lora.r, prompts.query and so on;
OUT/config.yaml shows them all. The same command goes on where it stopped, also after a kill, and says so when all is done.""",
    """twoway rerank Qwen/Qwen3-VL-2B-Instruct out --data mined attention=causal lora.r=16
  twoway rerank my-model out --data mined head=linear loss=pairwise --nproc 8""",
    "training.run_rerank",
    "twoway.methods.rerank.config.RerankConfig",
    TRAINING,
    file=True,
)
VERBS["run"] = Verb(
    """Do the stages of a recipe one after the other: convert, pre-train and what follows, each from the model of the one before.

RECIPE is a YAML file with `base`, `stages` and keys that all stages share. OUT gets a folder a stage (1-convert, 2-pretrain, …), and
recipe.yaml with every setting, run.json, report.html. What is done is kept, what was cut off goes on: give the same command again.
A stage whose settings, data, code version or base have changed is refused with the difference; --redo does it again, and what follows.
Words: seed=1 sets a key of the whole recipe, '*.max_steps=1' one of every stage that has it, pretrain.learning_rate=1e-5 of one stage.""",
    """twoway run recipes/nano-moca.yaml out --dry-run                 (stages, rows, tokens, time, memory; nothing is done)
  twoway run recipes/nano-moca.yaml out                           (give it again after a stop: it goes on)
  twoway run recipes/nano-moca.yaml out pretrain.learning_rate=3e-4 --redo   (convert is kept, pretrain done again)""",
    "recipes.run_run",
    "twoway.recipes.config.RunConfig",
    (
        arg("recipe", metavar="RECIPE", help="YAML file"),
        arg("out", metavar="OUT", help="folder of the run; new, or a run to go on with"),
        WORDS,
        arg("--data", metavar="SPEC", action="append", default=[], help="a source, instead of the shared data of the recipe"),
        arg("--dry-run", action="store_true", help="say what would be done and what it would cost, and do nothing"),
        JSON,
    ),
)
VERBS["plan"] = Verb(
    """Say what a recipe costs at full size: operations, tokens, hours, money, and what fits in memory.

Nothing is loaded but the model's config, and no data is read. Operations are counted from the model's parts (tower, merger, language
model, head at masked words, decoder, attention), with frozen parts, adapters, activations computed again and gradient caching. Lengths
of rows, the share of the peak that is reached and prices are assumptions, listed below the figures, each with the option that replaces
it. Where the data is on this machine, 'twoway run RECIPE OUT --dry-run' reads its lengths instead.""",
    """twoway plan recipes/moca-3b.yaml --hardware h200x8
  twoway plan recipes/moca-3b.yaml --hardware h100x32 --tokens pretrain=30e9 --price 2.50
  twoway plan recipes/cocoa-2b.yaml --hardware h200x8 --source mmeb-train=662_000:70:0.8:600:20:0.3:600""",
    "recipes.run_plan",
    "twoway.recipes.config.PlanConfig",
    (
        arg("recipe", metavar="RECIPE", help="YAML file of a recipe, as for 'twoway run'"),
        WORDS,
        arg("--hardware", metavar="NAMExN", required=True, help="a100, h100, h200 or b200, and how many: h200x8"),
        JSON,
    ),
)
VERBS["merge"] = Verb(
    """Merge models of one base into one: their weighted mean, the arc between two, or what their changes agree on (TIES).

Each MODEL is a hub id or a folder of an embedding model, or an adapter of one. They must have been trained from one base: names, shapes and
directions of their weights are checked. They must agree in attention, pooling, prompts and limits, or --settings-from names the model whose
settings stand. With --suite the weights are those that score best there, each model alone being among the choices; give a suite that no
result is reported on. OUT is a plain sentence-transformers checkpoint, measured as convert's; its chain names every model and weight.""",
    """twoway merge retrieval-run classification-run merged
  twoway merge A B merged --method ties --base my-base --density 0.3
  twoway merge A B merged --suite pairs --data held-out.jsonl --grid 10""",
    "models.run_merge",
    "twoway.methods.config.MergeConfig",
    (
        arg("models", metavar="MODEL", nargs="+", help="hub id or folder, two or more"),
        arg("out", metavar="OUT", help="folder to write; it must not exist"),
        arg("--overwrite", action="store_true", help="replace OUT once the new one is whole"),
        JSON,
    ),
)
VERBS["evaluate"] = Verb(
    """Score a model on a suite, with what chance would give and how sure each score is.

MODEL is a checkpoint of ours, any sentence-transformers model, a VLM2Vec, MoCa or CoCoA checkpoint as its trainer left it, a causal
vision-language model with --pooling last, or a server of vectors by its address (openai:URL#MODEL). The suite mmeb takes any folder in
MMEB's layout: one folder a task with Parquet inside, columns qry_text, qry_img_path, tgt_text, tgt_img_path (the first candidate is
right), picture paths relative to the folder; tasks that MMEB does not have are scored too and listed apart. The suite mmeb-v2 reads a
folder in MMEB-V2's layout: images, videos and pages. The suite pairs scores your own pairs, in any form that 'twoway finetune' reads: each
query among all answers and hard negatives of the files. The suite nano brings its own data: pictures, questions, regions, pages and texts
of things that fine-tuning on samples:train has not seen; beside the model it scores three that cannot know (random, words alone, pixels
alone). The suite nano-video shows clips of such things, in which the order of frames decides. The suite vidore-v2 and mteb:NAME, any
benchmark or task of mteb by name, are scored by mteb itself, which fetches their data from the hub.

Each distinct content is embedded once and kept in the cache, so a run that was cut off goes on where it was. Ties are no hits; for mmeb
the official score, in which they are, stands beside. A score that chance would reach is marked "at chance".""",
    """twoway evaluate out --suite nano --out nano.json --report nano.html
  twoway evaluate out --suite mmeb --data MMEB-eval --out results.json
  twoway evaluate out --suite mmeb --data MMEB-eval --tasks MSCOCO_i2t OK-VQA --subset 200
  twoway evaluate out --suite pairs --data test.jsonl --out test.json --report test.html
  twoway evaluate out --suite vidore-v2 --out vidore.json
  twoway evaluate out --suite mteb:STS12
  twoway evaluate Qwen/Qwen2-VL-2B-Instruct --pooling last --suite mmeb --data MMEB-eval
  twoway evaluate openai-chat:http://localhost:8000/v1#my-model --suite nano
  twoway compare results-a.json results-b.json""",
    "evaluate.run_evaluate",
    "twoway.evaluation.config.EvaluateConfig",
    (
        arg("model", metavar="MODEL", help="folder, hub id, or openai:URL#MODEL"),
        arg("--cap", metavar="N", type=int, help="of each source of pairs the first N rows; a stream of the hub needs it"),
        arg("--out", metavar="FILE", help="write results here, and the outcome of every item beside it"),
        arg("--report", metavar="FILE", help="write a page here: scores beside chance, and queries with what they found"),
        JSON,
    ),
)
VERBS["compare"] = Verb(
    """Compare results of twoway evaluate, item by item: each file against the first.

A difference is the later file minus the first on the items that both have, with its 95% interval by a paired bootstrap; where the interval
leaves zero out, the line says which one is better, and else that the difference may be luck. The files of items lie beside the results.""",
    """twoway compare causal.json two-way.json
  twoway compare base.json a.json b.json --picture differences.svg
  twoway compare base.json a.json b.json --json""",
    "evaluate.run_compare",
    "twoway.evaluation.config.CompareConfig",
    (
        arg("first", metavar="FIRST", help="results that the others are compared with"),
        arg("others", metavar="OTHER", nargs="+", help="more results"),
        arg("--picture", metavar="FILE", help="draw the differences with their intervals, as FILE.svg or FILE.html"),
        JSON,
    ),
)
VERBS["mteb"] = Verb(
    """Run mteb's own command on a model of yours.

What follows is given to mteb as it stands: `twoway mteb run -m out -t STS12` is `mteb run -m out -t STS12`, for any model that evaluate
takes. mteb's command alone opens only what is in its registry or on the hub (there a checkpoint of ours works as it is, pictures included);
of a folder it says "No model implementation is available". Options of ours stand before mteb's words. Tasks and their data are fetched by
mteb from the hub; `mock-run` needs none. For tables with chance and intervals there is twoway evaluate --suite mteb:NAME.""",
    """twoway mteb run -m out -t STS12 Vidore2ESGReportsHLRetrieval
  twoway mteb --cache-dir cache run -m out -b "ViDoRe(v2)" --output-folder results
  twoway mteb mock-run -m out
  twoway mteb run -m openai:http://localhost:8000/v1#name -t STS12""",
    "evaluate.run_mteb",
    "twoway.evaluation.config.MtebConfig",
    (arg("mteb_words", nargs="...", metavar="WORDS", help="mteb's own words, such as: run -m MODEL -t TASK"),),
)
VERBS["study"] = Verb(
    """Test claims: train arms that differ in one thing each, with several seeds, score them on the same items, and say what holds.

STUDY is a YAML file: a base, stages that arms share (each is done once), arms, seeds, claims. OUT gets results/ARM/seed-N.json as
twoway evaluate writes them, study.json, gate.json, report.html, and a log of each job in logs/. Jobs run in processes of one thread each.
What is done is kept, what was cut off goes on: give the same command again. A job that fails takes along what needs it and nothing else;
the command then ends with 1 and names its log. Where the base does not look at its pictures, or the first arm does not clear chance, the
study says that it cannot decide, and why. --report writes what stands in OUT, all of it, as it was last run; it runs nothing.
Words: seeds=[1] sets a key of the study, finetune.rows=640 one of all arms, arms.causal.learning_rate=1e-4 or stages.moca.rows=6400 one of
one.""",
    """twoway study studies/quick.yaml out --dry-run            (jobs, rows, time; nothing is done)
  twoway study studies/quick.yaml out --jobs 2             (give it again after a stop: it goes on)
  twoway study studies/full.yaml out --claims 2,3          (what these claims need, and no more)
  twoway study studies/quick.yaml out --write results.md   (and write the results as a page, beside the papers' figures)""",
    "study.run_study",
    "twoway.study.config.StudyRunConfig",
    (
        arg("study", metavar="STUDY", help="YAML file"),
        arg("out", metavar="OUT", help="folder of the study; new, or a study to go on with"),
        arg("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the study"),
        JSON,
    ),
)
VERBS["embed"] = Verb(
    """Embed any amount of texts, pictures, pages, videos and sounds into a folder of Parquet files, and go on where it was stopped.

MODEL is a folder or hub id: ours, any sentence-transformers model, a vision-language model, an adapter. --data takes JSONL, Parquet, PDFs,
folders of pictures, videos or sounds, patterns ('scans/**/*.png'), data sets. OUT/part-*.parquet hold id, place of origin, text, metadata
and vector; OUT/manifest.json says by which model. The same command goes on after any end, a kill too: no row is lost and none is there
twice.""",
    """twoway embed my-model --data scans --out vectors --side document
  twoway embed my-model --data products.jsonl 'more/*.parquet' --out vectors --truncate-dim 128 --precision int8 --measure-recall
  twoway embed my-model --data /shared/scans --out vectors --engine ray --cluster.address auto""",
    "search.run_embed",
    "twoway.embedding.config.EmbedConfig",
    (
        MODEL,
        arg("--data", metavar="SPEC", nargs="+", action="extend", required=True, help="one source or several, read one behind the other"),
        arg("--out", metavar="DIR", required=True, help="folder of the vectors; new, or one to go on with"),
        arg("--overwrite", action="store_true", help="take away the vectors in DIR and begin anew"),
        JSON,
    ),
)
VERBS["index"] = Verb(
    """Bring what 'twoway embed' wrote into an index: new rows are added, rows with a known id take the old one's place.

With --model, DATA is the data itself (PDFs, pictures, JSONL, …): it is embedded first, as 'twoway embed --side document' does.
--index is a folder (LanceDB), a Milvus server (milvus://host:port/collection) or a Milvus Lite file (NAME.db). Rows keep their text, their
place, a thumbnail and their metadata, which filters may name. The index remembers the model; vectors of another are refused. Small ones
are searched exactly; larger ones get an index whose recall is measured against exact search. The same command goes on after any end.""",
    """twoway index vectors --index my-index
  twoway index my-pdfs --model Qwen/Qwen3-VL-Embedding-2B --index my-index --on-bad skip
  twoway index more-vectors --index milvus://localhost:19530/pages --exact-below 100000 --recall 0.98
  twoway index --index my-index --delete scans/old.png notes.jsonl:7 --compact""",
    "search.run_index",
    "twoway.search.config.IndexConfig",
    (
        arg("data", metavar="DATA", nargs="?", help="folder of vectors that 'twoway embed' wrote; with --model, the data"),
        arg("--index", metavar="PATH", required=True, help="a folder, NAME.db, or milvus://host:port/collection"),
        arg("--overwrite", action="store_true", help="replace the index by one of these vectors alone"),
        JSON,
    ),
)
VERBS["search"] = Verb(
    """Find in an index what is nearest to words, to a picture, or to both together, in any mix of texts, pictures and pages.

The index names its model, and only that answers (--model says where it lies now). --filter compares metadata: fields, = != < <= > >=, in,
has, like, between, is null, and, or, not. --hybrid fuses nearness with full-text search for the words themselves.""",
    """twoway search my-index "a fox in the snow"
  twoway search my-index "the same in blue" --image photo.jpg --filter "year >= 1990 and shelf = 'A'" --top-k 20
  twoway search milvus://localhost:19530/pages --like "report.pdf page 3" --json""",
    "search.run_search",
    "twoway.search.config.SearchConfig",
    (
        arg("index", metavar="INDEX", help="what 'twoway index' made: a folder, NAME.db, or milvus://host:port/collection"),
        arg("text", metavar="WORDS", nargs="*", help="what to look for, in quotation marks or without; always taken as text"),
        arg("--image", metavar="FILE", help="look for what is like this picture"),
        arg(
            "--pictures",
            choices=("auto", "blocks", "kitty", "iterm", "never"),
            default="auto",
            help="draw thumbnails: as the terminal can (auto), in half blocks, into a file too, or by kitty's or iTerm2's protocol",
        ),
        JSON,
    ),
)
VERBS["serve"] = Verb(
    """Put a model behind HTTP: embeddings as the OpenAI client asks for them, search in an index, and a page to look at.

POST /v1/embeddings takes texts (OpenAI's) and pictures (messages with image_url parts, as vLLM takes them; data URLs alone: nothing is ever
fetched, and no path is read). With --index, /v1/search and the page at / search an index made by 'twoway index'. It answers on this
machine alone; for others, pass --host, set API keys, and put a proxy with TLS in front. /healthz, /readyz and /metrics are for those who
run it.""",
    """twoway serve my-model --index my-index
  twoway serve my-model --index my-index --host 0.0.0.0 --api-keys keys.txt --read-only""",
    "serve.run_serve",
    "twoway.server.config.ServeConfig",
    (MODEL,),
)
VERBS["mine"] = Verb(
    """Find hard negatives: for each pair's query, what a model takes for near and is not right.

Candidates are the positives of all pairs of the same task, and the rows of --corpus. The positive, its copies (by content and by vector)
and the answers of other rows with the same query are never taken. Sources are those of 'twoway finetune': a SPEC each, or the data of a
recipe, with its templates and caps; of a stream of the hub the first --cap rows are copied beside the vectors.

OUT/part-*.parquet are pairs for finetune, each negative with its score, rank and place; OUT.vectors keeps the vectors, so that another
choice costs no embedding. The same command goes on after any end.""",
    """twoway mine my-model --data samples:train --out mined --num-negatives 3 --range-min 5 --relative-margin 0.05
  twoway mine my-model --data pairs.jsonl --corpus pages.parquet --out mined --random-share 0.25 --absolute-margin 0.05
  twoway mine my-model --data hub:OWNER/PAIRS:train --cap 100000 --out mined
  twoway mine my-model --recipe recipes/moca-finetune.yaml --out mined""",
    "data.run_mine",
    "twoway.methods.config.MineConfig",
    (
        arg("model", metavar="MODEL", help="a folder or a hub id: ours, or any that gives vectors"),
        arg("--recipe", metavar="FILE", help="the pairs that this recipe of finetune trains on; --data replaces them"),
        arg("--cap", metavar="N", type=int, help="of each source named here the first N rows; a stream of the hub needs it"),
        arg("--out", metavar="DIR", required=True, help="folder of the pairs with negatives; new, or one to go on with"),
        arg("--vectors", metavar="DIR", help="where the vectors are kept (default: OUT.vectors)"),
        arg("--overwrite", action="store_true", help="take away the pairs in OUT and begin anew; vectors stay"),
        JSON,
    ),
)
VERBS["score"] = Verb(
    """Write a teacher's scores of each pair's candidates beside them, for distillation: 'twoway finetune … loss.distill=kl' follows them.

MODEL is a reranker, which reads a query with each candidate, or an embedding model, also behind a server (openai:URL#MODEL), whose score
is the cosine. OUT/part-*.parquet are pairs for finetune and rerank, with positive_scores and negative_scores. The same command goes on
after any end.""",
    """twoway score my-reranker --data mined --out scored
  twoway score Qwen/Qwen3-VL-Embedding-8B --data pairs.jsonl --out scored""",
    "data.run_score",
    "twoway.methods.config.ScoreConfig",
    (
        arg("model", metavar="MODEL", help="a folder or a hub id: a reranker, or any that gives vectors; or openai:URL#MODEL"),
        arg("--out", metavar="DIR", required=True, help="folder of the pairs with scores; new, or one to go on with"),
        arg("--overwrite", action="store_true", help="take away the pairs in OUT and begin anew"),
        JSON,
    ),
)
VERBS["samples"] = Verb(
    """List and describe the samples.

The samples are a small real world: pictures in several styles with names in several languages, flags, document pages, paragraphs.
A view is what `samples:NAME` reads wherever a command takes data.""",
    """twoway samples
  twoway samples train --show 3""",
    "data.run_samples",
    "twoway.data.config.SamplesConfig",
    (arg("view", nargs="?", metavar="NAME", help="describe one view (default: list all)"), JSON),
)
