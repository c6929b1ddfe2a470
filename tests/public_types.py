"""What a type checker says of the public Python: `mypy` reads this file, and nothing runs it.

Each line is an error where a name is typed. Where it is not, the comment is one too many, and mypy says so.
"""

import twoway

twoway.chekc  # type: ignore[attr-defined]

version_is_typed: None = twoway.__version__  # type: ignore[assignment]
BridgeConfig_is_typed: None = twoway.BridgeConfig  # type: ignore[assignment]
ConvertConfig_is_typed: None = twoway.ConvertConfig  # type: ignore[assignment]
ConvertResult_is_typed: None = twoway.ConvertResult  # type: ignore[assignment]
Document_is_typed: None = twoway.Document  # type: ignore[assignment]
Embedder_is_typed: None = twoway.Embedder  # type: ignore[assignment]
EvaluateConfig_is_typed: None = twoway.EvaluateConfig  # type: ignore[assignment]
Finder_is_typed: None = twoway.Finder  # type: ignore[assignment]
FinetuneConfig_is_typed: None = twoway.FinetuneConfig  # type: ignore[assignment]
MineConfig_is_typed: None = twoway.MineConfig  # type: ignore[assignment]
PretrainConfig_is_typed: None = twoway.PretrainConfig  # type: ignore[assignment]
TwowayError_is_typed: None = twoway.TwowayError  # type: ignore[assignment]
UsageError_is_typed: None = twoway.UsageError  # type: ignore[assignment]
bridge_is_typed: None = twoway.bridge  # type: ignore[assignment]
check_is_typed: None = twoway.check  # type: ignore[assignment]
check_bridge_is_typed: None = twoway.check_bridge  # type: ignore[assignment]
check_data_is_typed: None = twoway.check_data  # type: ignore[assignment]
compare_is_typed: None = twoway.compare  # type: ignore[assignment]
convert_is_typed: None = twoway.convert  # type: ignore[assignment]
embed_is_typed: None = twoway.embed  # type: ignore[assignment]
evaluate_is_typed: None = twoway.evaluate  # type: ignore[assignment]
find_is_typed: None = twoway.find  # type: ignore[assignment]
finetune_is_typed: None = twoway.finetune  # type: ignore[assignment]
index_is_typed: None = twoway.index  # type: ignore[assignment]
info_is_typed: None = twoway.info  # type: ignore[assignment]
mine_is_typed: None = twoway.mine  # type: ignore[assignment]
mteb_model_is_typed: None = twoway.mteb_model  # type: ignore[assignment]
open_embedder_is_typed: None = twoway.open_embedder  # type: ignore[assignment]
open_source_is_typed: None = twoway.open_source  # type: ignore[assignment]
open_store_is_typed: None = twoway.open_store  # type: ignore[assignment]
plan_is_typed: None = twoway.plan  # type: ignore[assignment]
prepare_data_is_typed: None = twoway.prepare_data  # type: ignore[assignment]
pretrain_is_typed: None = twoway.pretrain  # type: ignore[assignment]
run_is_typed: None = twoway.run  # type: ignore[assignment]
