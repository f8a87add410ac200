"""Every option of hearth, once; `main.py help` prints them. Marks follow the kind, see utils/options/marks.py. A preset
is a subclass that lists only what differs, each line with its reason."""

from utils.options.kinds import choice, either, flag, integer, number, optional, path, pixels, settings, several, text
from utils.options.marks import before, by, free, needs, of, only, was
from utils.options.names import name_in, optimizer_name, run_name, weighted_sum, weights_name
from utils.options.options import Options
from utils.options.readers import ALL, CONTROL, FOLDER, LABELLED, NAMED, NET, PACKS, RESUME, SEEN, STEERED, TESTED, USE
from utils.options.rules import balance_once, batch_in_one, fit_warmup, one_fold, sizes_of_crops, unfreeze_in_time

SCHEDULERS = "decay", "plateau", "constant", "multistep", "step", "cosine", "linear_cosine", "exponential"
SCHEDULERS += "one_cycle", "linear"
DATA, LOSSES = of("dataset"), ("cross_entropy", "label_smoothing", "focal", "bce", "l1", "mse")
DIVIDED = DATA | by("train", "pack", "doctor", "find-lr")
WRITE, TURNS = by("predict", "export"), needs("run", "load_model_path") | by("prune")
PRINTED, EXPORTED = ("table", "csv", "json"), ("onnx", "openvino", "ncnn", "pt2")
RUNS, PRUNE = by("runs"), by("runs", hint="a model is pruned with `main.py prune --importance=l1`")


class DefaultConfig(Options):
    """Every option with its default."""

    # --- data
    config: optional(path) | free | ALL = None  # start from a preset of config.py (Demo) or a YAML file, a run's say
    dataset: name_in("data") | ALL = "DogCat"  # class of data/ that reads the samples
    train_data_root: several(path) | free | LABELLED = ["./data/train"]  # folder(s) or list(s) of labelled samples
    val_data_root: several(path) | free | DATA | LABELLED = []  # the same for validation; none: 30 % of train_data_root
    test_data_root: several(path) | free | TESTED = ["./data/test1"]  # without labels; train keeps it for test
    val_size: optional(integer(1)) | DATA | LABELLED = None  # validate on this many samples at most
    folds: optional(integer(2)) | DIVIDED = None  # divide train_data_root into parts: one validates, the others train
    fold: optional(either(integer(0), "all")) | DIVIDED = None  # its number, from 0; all: train each fold in turn
    group: optional(text) | DIVIDED = None  # what keeps samples in one fold: a ListFile's column, or a pattern of names
    columns: several(text) | DATA | ALL = []  # ListFile: a table's columns with pictures and labels, as id,label or 1,3
    exif: choice("auto", "stored", "upright") | DATA | ALL = "auto"  # how pictures lie in which boxes were drawn
    crowds: choice("ignore", "objects") | DATA | LABELLED = "ignore"  # what COCO's crowds, VOC's difficult objects, are
    download: flag | free | DATA | ALL = False  # CIFAR10: download the data (170 MB) when it is not there
    repeat: integer(1) | DATA = 1  # CocoMask: times that an epoch goes through the pictures
    resample: choice("none", "mean", "log", "sqrt") | DATA = "none"  # balance unequal classes in every epoch
    class_weights: flag | DATA = False  # weigh the loss of class c with N / N_c
    pack: flag | free | DATA | USE = True  # decode every picture once, into pack_dir, and read it from there
    pack_dir: path | free | PACKS = "packs"  # folder for that; it can be deleted at any time
    cache: choice("auto", "device", "none") | free | USE = "auto"  # keep pictures in device memory; auto: on GPUs
    image_size: pixels(32) | SEEN = 224  # pixels that the model gets: the side of a square, or width x height, 320x192
    fit: choice("pad", "squeeze") | DATA | SEEN | before("squeeze") = "pad"  # pictures with masks: keep proportions?
    center_crop: number(0, above=True, high=1) | DATA | SEEN = 1.0  # share that val and test see of a picture's middle
    interpolation: choice("bilinear", "bicubic") | DATA | SEEN = "bilinear"  # how pictures are resized, when read

    # --- augmentation of training pictures
    augment: flag | DATA = True  # False: none; with --finetune a frozen body then looks once at each picture
    crop_min_scale: number(0, above=True, high=1) | DATA | was("min_crop") = 0.08  # smallest random crop, share of area
    train_image_size: several(pixels(16)) | DATA = []  # in training, 64,96 say, one after the other; none: image_size
    flip: number(0, high=1) | DATA = 0.5  # probability of a horizontal flip
    rotate: number(0, high=180) | DATA = 0.0  # largest rotation to either side, degrees
    color_jitter: number(0, high=1) | DATA | was("colour") = 0.0  # largest change of brightness, contrast, saturation
    noise: number(0) | DATA = 0.0  # standard deviation of Gaussian noise, where 1 is white
    random_erasing: number(0, high=1) | DATA | was("erase") = 0.0  # probability that a random box is erased
    mixup: number(0) | DATA = 0.0  # blend each picture with another: alpha of the Beta distribution; 0: off
    cutmix: number(0) | DATA = 0.0  # paste a box of another picture into each: alpha as for mixup; 0: off

    # --- model
    model: name_in("models") | NET = "SqueezeNet"  # class of models/, or a name of torchvision or timm: resnet18, ...
    width: number(0, above=True) | of("model") | NET = 1.0  # factor on the channels of ResNet9, UNet, resnet50, ...
    masks: flag | of("model") | NET = True  # MaskRCNN: masks of the objects; False: boxes alone, as Faster R-CNN
    keypoints: integer(1) | DATA | ALL = 17  # KeypointRCNN, CocoKeypoints: points of an object; COCO's persons have 17
    proposals: integer(4) | NET = 2000  # MaskRCNN: regions per picture after its first stage, in training
    load_model_path: optional(path) | NET = None  # start from a file, a run's folder (its best.pth), https://...
    pretrained: weights_name = None  # start from the model's published weights: bare, or of a folder, file, https://...
    mean_std: several(number()) | of("model") | NET = []  # of the pictures that a library's weights expect, R,G,B,R,G,B
    partly: flag = False  # load it even if it gives less than 90 % of the model besides its head
    run: optional(text) | NAMED = None  # run whose best.pth is taken; None: the newest one's
    finetune: flag | needs("load_model_path", "pretrained") = False  # train the model's head only
    unfreeze_epoch: optional(integer(1)) | needs("finetune") = None  # after that many epochs train the rest, too
    criterion: optional(weighted_sum(*LOSSES)) | by("train", "val", "doctor", "find-lr") = None  # None: the model's

    # --- training
    max_epoch: integer(1) | free | STEERED = 10  # number of epochs in the whole run
    batch_size: either(integer(1), "auto") | NET = 32  # samples per step; auto: the fewest that are fast, measured
    accumulate: integer(1) = 1  # micro-batches per step, to save memory
    optimizer: optimizer_name = "Adam"  # class of torch.optim; Muon: that of utils/train/, for convolutions too
    optimizer_options: settings = {}  # more arguments of its constructor: alpha=0.9,centered=True
    momentum: number(0, high=0.9999) = 0.9  # of SGD, RMSprop and Muon; Adam's kind uses it as beta1
    weight_decay: number(0) = 1e-4  # on weights only, not on biases and norms
    slim: number(0) = 0.0  # L1 penalty on BatchNorm's scales, for prune --importance=slim; 1e-4 say
    clip_grad: number(0) = 0.0  # clip the global gradient norm; 0: off
    ema: number(0, high=0.99999) = 0.0  # decay of a moving average of the weights, validated and saved as best.pth
    max_bad_steps: integer(1) | free | was("bad_steps") = 50  # non-finite steps in a row before on_bad applies
    on_bad: choice("stop", "rollback") | free | was("bad_action", back="rollback") = "stop"  # rollback: with half lr
    seed: integer(0) = 0  # of the order of samples, initial weights, augmentation and dropout

    # --- learning rate
    lr: number(0, above=True) | STEERED = 0.001  # initial learning rate
    scheduler: choice(*SCHEDULERS, own=True) = "decay"  # shape of the learning rate; `help --scheduler=cosine` draws it
    warmup_epochs: number(0) = 0.0  # epochs of linear warm-up, updated per step
    lr_decay: number(0, above=True, high=1) | only(scheduler="decay") = 0.95  # factor when an epoch's mean loss rises
    patience: integer(1) | only(scheduler="plateau") = 3  # epochs without a lower loss before lr_gamma applies
    milestones: several(integer(1)) | only(scheduler="multistep") = []  # epochs at which lr_gamma applies
    step_size: integer(1) | only(scheduler="step") = 3  # lr_gamma applies every step_size epochs
    lr_gamma: number(0, above=True, high=1) | only(scheduler=("multistep", "step", "plateau")) = 0.1  # factor on lr
    cycles: integer(1) | only(scheduler="cosine") = 1  # number of descents; between them lr climbs back
    cycle_decay: number(0, above=True, high=1) | only(scheduler="cosine") = 1.0  # height of a peak, share of the last
    lr_final: number(0, high=1) | only(scheduler=("one_cycle", "linear")) = 0.2  # last lr as a share of the first

    # --- machine
    gpus: several(text) | free = []  # train on these GPUs, 0,1 say, or all: a process each, as with torchrun
    processes: integer(1) | free = 1  # number of processes, on CPUs
    use_gpu: flag | free | NET = True  # train on the GPU where there is one
    precision: choice("auto", "fp32", "bf16", "fp16") | NET = "auto"  # of the arithmetic; auto: the fastest, measured
    compile: flag | free = False  # torch.compile the model's objective
    num_workers: optional(integer(0)) | free | USE = None  # processes that read samples; None: as many as help
    val_batch_size: optional(integer(1)) | free | USE = None  # None: what fits on a GPU, else batch_size

    # --- run and its checkpoints
    work_dir: path | free | FOLDER = "checkpoints"  # folder in which every run gets a folder
    resume: run_name | free | RESUME = None  # continue a run: bare, the newest unfinished; auto: that or a new one
    monitor: optional(text) = None  # selects best.pth: loss, val_loss, val_accuracy, ...; None: the data set's first
    save_freq: integer(0) | free = 0  # save every k steps, too; 0: only after each epoch, and when stopped
    keep_last: integer(0) | free = 0  # also keep the weights of the last k epochs
    keep_every: integer(0) | free = 0  # also keep every k-th epoch's weights and report; 0: none
    keep_from: integer(1) | free = 1  # first epoch for keep_every
    keep_optimizer: flag | free = True  # False: of a finished run only best.pth stays, it cannot get more epochs
    tta: optional(choice("flip", "multi")) | free | by("val", "test") = None  # mean over views: mirrored, also enlarged
    calibrate: flag | free | by("test") = False  # by the temperature that is best on --fold=all's out_of_fold.csv
    result_file: path | free | by("test") = "result.csv"  # where test writes its predictions; masks: beside it
    labels: flag | DATA | by("test") = False  # write classes (Dogs vs. Cats), not probabilities (its Redux edition)
    report_dir: optional(path) | by("val", "doctor", "find-lr") = None  # for the report; None: beside the checkpoint

    # --- a trained model at work
    input: optional(path) | free | by("predict") = None  # pictures: file, folder, '*.jpg', or - for a list on stdin
    top: integer(1) | free | by("predict") = 5  # classes or objects of a picture that are printed, the best ones
    format: optional(choice(*PRINTED, *EXPORTED)) | free | WRITE = None  # None: predict a table, export onnx
    draw: flag | free | by("predict") = False  # draw predictions on the pictures, into --output
    half: flag | free | by("export", hint="--precision=fp16 computes in 16 bits") = False  # weights of 16 bits
    int8: flag | free | by("export") = False  # weights of 8 bits, with scales from 100 training samples
    output: optional(path) | free | by("predict", "export", "prune") = None  # file; predict: folder, predictions/
    importance: choice("l1", "l2", "fpgm", "slim") | free | by("prune") = "l1"  # by which channels stay
    ratio: number(0, above=True, high=1) | free | by("prune") = 0.5  # share of each layer's channels that goes
    speedup: optional(number(1, above=True)) | free | by("prune") = None  # as many times as fast here; sets the ratio
    iterative: optional(integer(1)) | free | TURNS = None  # turns of pruning and fine-tuning for --max-epoch epochs
    licence: optional(text) | free | by("card") = None  # of the model, for its card

    # --- many runs
    compare: several(text) | free | RUNS = []  # runs whose curves, options and code are set beside each other
    prune: several(choice("previous", "last", "epochs", "failed", "packs")) | free | PRUNE = []  # name files to delete
    yes: flag | free | needs("prune") | RUNS = False  # delete what --prune lists
    to: optional(name_in("utils.watch", own=True)) | free | by("replay") = None  # what gets the record: ClearML
    trials: integer(1) | free | by("sweep") = 30  # trainings in all, with --lr=1e-4..1e-1 or --optimizer=Adam,SGD, say
    jobs: integer(1) | free | by("sweep") = 1  # processes that train at the same time, a GPU each
    study: optional(text) | free | by("sweep") = None  # file, sqlite:///a.db or postgresql://...; None: in work_dir

    # --- control of a run that is being trained
    steer: flag | free = True  # train: obey `control`, from this user alone
    replay: optional(path) | by("train") = None  # train: make the commands of that run again, at the same steps
    step: optional(choice("last")) | free | needs("replay") = None  # last: make only the failed step of --replay again
    freeze: several(text) | free | by("control", hint="--finetune trains the head alone") = []  # stop training layer1
    unfreeze: several(text) | free | CONTROL = []  # train them again
    save: flag | free | CONTROL = False  # write last.pth
    pause: flag | free | CONTROL = False  # wait after the step
    go_on: flag | free | CONTROL = False  # end the pause
    stop: flag | free | CONTROL = False  # end the run; --resume continues it
    status: flag | free | CONTROL = False  # where the run stands
    debug: flag | free | CONTROL = False  # open the debugger of the running loop at this terminal
    rank: integer(0) | free | needs("debug") | CONTROL = 0  # number of the process that is entered, of several

    # --- watching and debugging
    callbacks: several(name_in("utils.watch", own=True)) | free = []  # EarlyStopping, Trackio, ..., my_file.Mine
    stop_patience: integer(1) | free | only(callbacks="EarlyStopping") = 5  # epochs without a better --monitor
    min_delta: number(0) | free | only(callbacks="EarlyStopping") = 0.0  # by how much it has to be better to count
    notify: optional(text) | free | only(callbacks="Notify") = None  # command that gets a line: better epochs, the end
    env: optional(text) | free = None  # visdom environment; None: named like the run's folder
    vis_port: integer(1, 65535) | free = 8097  # port of the visdom server on this machine; none is needed to train
    print_freq: integer(1) | free | STEERED = 20  # steps between two points of the plots and two checks for bad steps
    progress: flag | free | by("train", "test") = True  # progress bar (plain lines when the output is no terminal)
    draw_freq: integer(0) | free | by("train", "val") = 0  # draw predictions of every k-th validation batch; 0: none
    cam: integer(0) | free | by("val") = 0  # number of pictures with class activation maps
    debug_file: path | free | ALL = "/tmp/debug"  # `touch` it to stop the running loop in the debugger
    show_options: flag | free | SEEN = False  # print all options before the work, not only those that were set
    pdb: flag | free = False  # open the debugger where an error ends the training

    _rules = balance_once, batch_in_one, fit_warmup, sizes_of_crops, unfreeze_in_time, one_fold


class Demo(DefaultConfig):
    """Cats and dogs drawn on the spot: 99 % on 780 validation pictures, 2 to 3 minutes on 2 cores."""

    dataset = "Demo"  # draws its pictures when they are not there yet
    train_data_root = ["./data/demo/train"]
    test_data_root = ["./data/demo/test1"]
    model = "resnet18"  # its BatchNorm makes it learn from scratch at once; SqueezeNet takes many more epochs
    image_size = 64  # the drawings are small; a twelfth of the work of 224
    crop_min_scale = 0.5  # a smaller crop may show neither ears nor snout, which tell the two apart
    max_epoch = 6
    scheduler = "cosine"
    warmup_epochs = 1.0  # without it one start in four needs two epochs more


class Finetune(DefaultConfig):
    """A new head on a body that was trained on ImageNet, without a network after `make pretrained`.

    python main.py train --config=Finetune --train-data-root=data/train    99 % of 600, by 1,402 others, in 92 s
    The mean of five folds of each of three models: log loss .024 on 400 by 1,600, 13 to 20 minutes (docs/jobs.md)
    """

    model = "tf_efficientnet_lite0"
    pretrained = "auto"
    finetune = True
    center_crop = 1.0  # 99.0 %; with the weights' own 0.875 98.8, one picture of 600 less
    augment = False  # so the body looks once at each picture: all epochs but the first take seconds
    optimizer = "AdamW"
    lr = 0.01
    weight_decay = 1.0  # strong: timm begins a head with large weights
    max_epoch = 14
    scheduler = "cosine"
    monitor = "val_loss"  # accuracies differ by single pictures


class DogCatScratch(DefaultConfig):
    """Photographs of cats and dogs, without pretrained weights: by 2,002 photographs 93.55 % of 2,000 others are
    right (93.35 to 93.8, three seeds), by 1,600 91.9 % of 402 (91.0 to 92.5) after 15 minutes on 2 cores, with
    --tta=flip.

    python main.py train --config=DogCatScratch --train-data-root=data/train    then val, test with --tta=flip
    python -m benchmarks.recipes DogCatScratch                                  repeats it
    """

    model = "ResNet9"
    width = 0.5  # 32 to 256 channels
    image_size = 128  # larger than in training, where crops enlarge what they show (Touvron et al. 2019)
    train_image_size = [64, 80, 96, 112]  # small pictures first: more epochs in the same time
    crop_min_scale = 0.15  # much augmentation: every picture is seen a hundred times
    color_jitter = 0.4
    random_erasing = 0.25
    criterion = "label_smoothing"
    optimizer = "Muon"  # log loss .25 after 15 minutes of one core, AdamW's .29
    lr = 4e-3
    momentum = 0.95
    weight_decay = 0.05
    batch_size = 64
    ema = 0.99  # of the last 100 steps, four epochs: it is steadier in between, and the same at the end
    max_epoch = 100
    scheduler = "linear"
    lr_final = 0.0
    warmup_epochs = 15.0


class Segmentation(DefaultConfig):
    """Pictures in <root>/images and masks in <root>/masks, a pixel's value its class; class_name.txt names them.

    python main.py train --config=Segmentation --train-data-root=my/set    or --model=UNet, DeepLabV3
    40 drawn pictures, --image-size=64 --batch-size=4 --max-epoch=5 --scheduler=constant: IoU 86 %, 10 s on a CPU
    """

    dataset = "MaskFolder"
    train_data_root = ["./data/segmentation/train"]
    test_data_root = ["./data/segmentation/test"]
    model = "FCN"
    crop_min_scale = 0.5  # a smaller crop shows too little around an object to tell what it is
    batch_size = 8  # scores are as large as the picture
    max_epoch = 50
    scheduler = "cosine"
    draw_freq = 10  # picture | prediction | truth


class SegmentationFast(Segmentation):
    """Segmentation on a CPU, from a few hundred pictures: mean IoU 51.8 % (51.7 to 51.9, three seeds) of CamVid's test,
    by its train alone, in 6.6 minutes of two idle cores with bf16 (one seed); the preset Segmentation has 38.5 % (37.8
    to 39.1) after 11 epochs, which take about as long.

    python main.py train --config=SegmentationFast --train-data-root=my/set    docs/jobs.md says where CamVid is
    """

    model = "UNet"
    width = 0.25  # 16 to 256 channels
    train_image_size = [96, 128, 160, 192, 224]  # small ones first: more epochs in the same time
    optimizer = "Muon"
    lr = 0.01
    momentum = 0.95
    weight_decay = 0.05
    scheduler = "linear"
    lr_final = 0.0
    warmup_epochs = 1.0
    max_epoch = 24


class Coco(DefaultConfig):
    """Boxes and masks of objects in COCO's format; --model=SSD for boxes alone.

    python main.py train --config=Coco --train-data-root=annotations/instances_train2017.json \\
        --val-data-root=annotations/instances_val2017.json
    Four pictures (one file as both roots), --image-size=192 --batch-size=2 --proposals=128 --repeat=50 --max-epoch=3:
    AP50 of boxes and masks 100 %, nine minutes on 2 busy cores
    """

    dataset = "CocoMask"
    train_data_root = ["./data/coco2017/annotations/instances_train2017.json"]
    test_data_root = ["./data/coco2017/annotations/image_info_test2017.json"]
    model = "MaskRCNN"
    image_size = 512  # the longer side
    batch_size = 4
    optimizer = "AdamW"  # from scratch SGD needs a longer warm-up and more care
    lr = 3e-4
    scheduler = "cosine"
    warmup_epochs = 0.5
    max_epoch = 24
    draw_freq = 50  # the truth, and beside it what was found
    result_file = "result.json"


class Heart(DefaultConfig):
    """Points in and around a heart, 2,881 parameters: 99.8 % on 30,000 points, half a minute on 2 cores."""

    dataset = "Heart"  # makes its points itself
    model = "MLP"  # its criterion is the binary cross-entropy
    batch_size = 100
    optimizer = "SGD"
    lr = 0.1  # hundreds of small steps an epoch, no BatchNorm
    weight_decay = 0.0  # 70,000 points for 2,881 parameters: nothing to hold back
    scheduler = "cosine"
    max_epoch = 20
    keep_every = 5  # each with a picture of the heart as the model sees it
    num_workers = 0  # an item costs less than sending it between processes
    precision = "fp32"  # bf16 has three digits, which is too coarse for the heart's edge
    print_freq = 100


class CIFAR10(DefaultConfig):
    """CIFAR-10 at 32 pixels, or --image-size=224 for models that want them large; --download fetches it."""

    dataset = "CIFAR10"
    train_data_root = ["./data/cifar10"]
    test_data_root = ["./data/cifar10"]
    model = "ResNet34"
    image_size = 32
    crop_min_scale = 0.5  # of 32 pixels little is left otherwise
    batch_size = 128
    optimizer = "SGD"
    lr = 0.1  # as He et al. 2015, section 4.2
    weight_decay = 5e-4
    scheduler = "cosine"
    warmup_epochs = 0.5
    max_epoch = 30


class CIFAR10Fast(CIFAR10):
    """CIFAR-10 on a CPU: 83.9 % of the test pictures (83.6 to 84.1, three seeds) in 15 minutes of one busy core, where
    torchvision's resnet18 with the preset CIFAR10 has 64.8 % (63.4 to 65.9) after 3 epochs, which took 16. Both on JPEG
    copies.

    python main.py train --config=CIFAR10Fast --download    then `python -m benchmarks.recipes CIFAR10Fast` repeats it
    """

    model = "ResNet9"
    width = 0.5  # 32 to 256 channels
    train_image_size = [24, 32, 32]  # small pictures first: a third of the epochs in two thirds of the time
    crop_min_scale = 0.8  # smaller crops are enlarged, and so blurred
    criterion = "label_smoothing"
    batch_size = 512  # a step of Muon costs as much for 512 pictures as for 128
    optimizer = "Muon"
    lr = 0.02  # large, because 588 steps have to do
    momentum = 0.95
    weight_decay = 0.05
    scheduler = "linear"
    lr_final = 0.0
    warmup_epochs = 1.0
    max_epoch = 6


load = DefaultConfig.load  # {option: value} -> the options, checked
