"""The papers: one row each, all that ``refimpl list`` needs without importing a paper."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper and where its module lives: ``refimpl.<area>.<slug>``."""

    slug: str
    area: str
    title: str
    authors: str
    year: int
    arxiv: str


PAPERS = (
    Paper(
        "linear_attention",
        "incontext",
        "Transformers learn in-context by gradient descent",
        "von Oswald, Niklasson, Randazzo, Sacramento, Mordvintsev, Zhmoginov, Vladymyrov",
        2022,
        "2212.07677",
    ),
    Paper(
        "context_prompt_tuning",
        "incontext",
        "Context-aware Prompt Tuning: Advancing In-Context Learning with Adversarial Methods",
        "Blau, Kimhi, Belinkov, Bronstein, Baskin",
        2024,
        "2410.17222",
    ),
    Paper(
        "higher_order",
        "incontext",
        "Transformers Learn Higher-Order Optimization Methods for In-Context Learning: A Study with Linear Models",
        "Fu, Chen, Jia, Sharan",
        2023,
        "2310.17086",
    ),
    Paper(
        "dual_form",
        "incontext",
        "Why Can GPT Learn In-Context? Language Models Implicitly Perform Gradient Descent as Meta-Optimizers",
        "Dai, Sun, Dong, Hao, Ma, Sui, Wei",
        2022,
        "2212.10559",
    ),
    Paper(
        "one_step_optimality",
        "incontext",
        "One Step of Gradient Descent is Provably the Optimal In-Context Learner with One Layer of Linear "
        "Self-Attention",
        "Mahankali, Hashimoto, Ma",
        2023,
        "2307.03576",
    ),
    Paper(
        "softmax_regression",
        "incontext",
        "The Closeness of In-Context Learning and Weight Shifting for Softmax Regression",
        "Li, Song, Xia, Yu, Zhou",
        2023,
        "2304.13276",
    ),
    Paper(
        "learning_algorithms",
        "incontext",
        "What learning algorithm is in-context learning? Investigations with linear models",
        "Akyürek, Schuurmans, Andreas, Ma, Zhou",
        2022,
        "2211.15661",
    ),
    Paper(
        "order_sensitivity",
        "incontext",
        "Do pretrained Transformers Learn In-Context by Gradient Descent?",
        "Shen, Mishra, Khashabi",
        2023,
        "2310.08540",
    ),
    Paper(
        "deep_linear",
        "dynamics",
        "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
        "Saxe, McClelland, Ganguli",
        2013,
        "1312.6120",
    ),
    Paper(
        "high_dimensional",
        "dynamics",
        "High-dimensional dynamics of generalization error in neural networks",
        "Advani, Saxe",
        2017,
        "1710.03667",
    ),
    Paper(
        "dynamical_stability",
        "dynamics",
        "The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent",
        "Wu, Su",
        2023,
        "2305.17490",
    ),
    Paper(
        "sgd_noise_regimes",
        "dynamics",
        "Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning",
        "Sclocchi, Geiger, Wyart",
        2023,
        "2301.13703",
    ),
    Paper(
        "large_step_logistic",
        "dynamics",
        "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes",
        "Tyurin",
        2024,
        "2412.08424",
    ),
    Paper(
        "benign_oscillation",
        "dynamics",
        "Benign Oscillation of Stochastic Gradient Descent with Large Learning Rates",
        "Lu, Wu, Yang, Zou",
        2023,
        "2310.17074",
    ),
    Paper(
        "gradient_coherence",
        "dynamics",
        "On the Generalization Mystery in Deep Learning",
        "Chatterjee, Zielinski",
        2022,
        "2203.10036",
    ),
    Paper(
        "batch_hessian",
        "dynamics",
        "Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training",
        "Granziol, Zohren, Roberts",
        2020,
        "2006.09092",
    ),
)
