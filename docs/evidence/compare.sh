#!/bin/bash
# The comparisons of docs/results.md: compare.sh SET DATA [key=value ...]
#
#   docs/evidence/compare.sh multi30k_2000 FOLDER     # of Multi30K; also multi30k_6000, multi30k
#   docs/evidence/compare.sh primitives ""
#   docs/evidence/compare.sh omniglot FOLDER          # of Omniglot
#   docs/evidence/compare.sh emoji emoji.jsonl        # written by docs/evidence/emoji_manifest.py
#
# Temperature and learning rate were tuned on the validation set, with runs of full length, for
# hard, clip and ntxent: `compare TASK ... losses=hard:mxmclr_hard,clip,ntxent tune=true seeds=1000`.
# The losses of many positives take those of hard. An interrupted comparison resumes.
set -euo pipefail
set_=$1 data=$2
shift 2

one() { echo "options.$1.loss.temperature=$2 options.$1.optimizer.lr=$3"; } # LOSS TEMPERATURE LR
# Options that are the same on every set, by loss.
uniform="options.uniform.loss.soft_temperature=inf"
all="options.all.loss.soft_scope=all options.all.loss.soft_temperature=0.05 options.all.loss.hard_weight=0.8"
softer="options.softer.loss.hard_weight=0.4"
within="options.within.loss.relation_within=0.3"
smoothed="options.smoothed.loss.soft_scope=all options.smoothed.loss.soft_temperature=inf options.smoothed.loss.hard_weight=0.9"
decayed="options.decayed.optimizer.weight_decay=0.1"

case $set_ in
multi30k*)
  size=${set_#multi30k}
  teacher=teacher.en=sentence_transformer
  task="multi30k data.root=$data train_instances=${size#_} batch.instances=128 batch.repeats=5"
  common="loss.temperature=0.1 optimizer.lr=0.03"
  losses=hybrid:mxmclr,uniform:mxmclr,all:mxmclr,softer:mxmclr,taught:mxmclr,within:mxmclr,smoothed:mxmclr,decayed:mxmclr_hard,longer:mxmclr_hard,supcon,clip,ntxent
  options="$uniform $all $softer options.taught.$teacher $within $smoothed $decayed"
  case $set_ in
  multi30k_2000)
    task="$task trainer.max_steps=300" longer=600
    losses=tuned:mxmclr,taught_softer:mxmclr,$losses
    options="$options $(one tuned 0.15 0.03) options.taught_softer.$teacher options.taught_softer.loss.hard_weight=0.4"
    ;;
  multi30k_6000) task="$task trainer.max_steps=450" longer=900 ;;
  multi30k)
    task="${task/train_instances= /} trainer.max_steps=600" longer=1200
    losses=decayed_hybrid:mxmclr,longer_hybrid:mxmclr,$losses
    options="$options options.decayed_hybrid.optimizer.weight_decay=0.1 options.longer_hybrid.trainer.max_steps=1200"
    ;;
  esac
  options="$options options.longer.trainer.max_steps=$longer"
  batches="$(one clip 0.15 0.06) $(one ntxent 0.15 0.0075)" cost="$(one clip 0.1 0.03) $(one ntxent 0.15 0.0075)"
  ;;
primitives)
  task="text2shape data=primitives_hard batch.instances=32 batch.repeats=20 trainer.max_steps=200"
  common="loss.temperature=0.15 optimizer.lr=0.002"
  losses=hybrid:mxmclr,uniform:mxmclr,all:mxmclr,softer:mxmclr,taught:mxmclr,within:mxmclr,smoothed:mxmclr,decayed:mxmclr_hard,longer:mxmclr_hard,longer_hybrid:mxmclr,supcon,clip,ntxent
  options="$uniform $all $softer options.taught.teacher.text=sentence_transformer $within $smoothed $decayed
    options.longer.trainer.max_steps=400 options.longer_hybrid.trainer.max_steps=400"
  batches="$(one clip 0.07 0.001) $(one ntxent 0.15 0.0005)" cost="$(one clip 0.07 0.002) $(one ntxent 0.15 0.0005)"
  ;;
omniglot)
  task="omniglot data.root=$data batch.instances=32 batch.repeats=20 trainer.max_steps=200"
  common="loss.temperature=0.15 optimizer.lr=0.001"
  losses=hybrid:mxmclr,uniform:mxmclr,all:mxmclr,softer:mxmclr,within:mxmclr,smoothed:mxmclr,decayed:mxmclr_hard,longer:mxmclr_hard,longer_hybrid:mxmclr,supcon,clip,ntxent
  options="$uniform $all $softer $within $smoothed $decayed
    options.longer.trainer.max_steps=400 options.longer_hybrid.trainer.max_steps=400"
  batches="$(one clip 0.15 0.002) $(one ntxent 0.3 0.0005)" cost="$(one clip 0.15 0.002) $(one ntxent 0.3 0.0005)"
  ;;
emoji)
  task="manifest data.path=$data towers/image=light_cnn2d towers.text.model=offline-minilm batch.folds.image=2 batch.folds.text=4
    batch.instances=64 batch.repeats=5 trainer.max_steps=200"
  common="loss.temperature=0.05 optimizer.lr=0.002"
  losses=hybrid:mxmclr,uniform:mxmclr,all:mxmclr,softer:mxmclr,taught:mxmclr,taught_within:mxmclr,within:mxmclr,smoothed:mxmclr,decayed:mxmclr_hard,longer:mxmclr_hard,supcon,clip
  options="$uniform $all $softer options.taught.teacher.text=tower options.taught_within.teacher.text=tower
    options.taught_within.loss.relation_within=0.3 options.taught_within.loss.soft_temperature=0.5
    $within $smoothed $decayed options.longer.trainer.max_steps=400"
  batches="$(one clip 0.15 0.002)" cost="$(one clip 0.15 0.001)"
  ;;
*) echo "there is no set $set_" >&2 && exit 2 ;;
esac

for protocol in same_batches same_encoder_cost; do
  tuned=$batches
  [ $protocol = same_batches ] || tuned=$cost
  python -m mxmclr_plugin.run compare $task losses="$losses,hard:mxmclr_hard" baseline=hard metric=rsum \
    eval.rsum=true seeds=0,1,2,3,4 protocol=$protocol $common $options $tuned out="runs/compare/$set_-$protocol" "$@"
done
