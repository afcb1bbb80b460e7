"""Where each method is from: what it is called in a paper, and what to cite for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Citation:
    """What a paper says of a method.

    Parameters
    ----------
    phrase
        The method, as part of a sentence.
    cited
        Keys of :data:`REFERENCES`.
    """

    phrase: str
    cited: tuple[str, ...]


SOURCES: dict[str, Citation] = {
    "map": Citation("the joint mode (MAP)", ("gelman2013bda",)),
    "laplace": Citation("Laplace's approximation at the joint mode", ("tierney1986accurate",)),
    "em": Citation("EM", ("dempster1977maximum",)),
    "marginal_mle": Citation(
        "maximum marginal likelihood by direct ascent", ("pinheiro1995approximations",)
    ),
    "variational_em": Citation("variational EM", ("neal1998view",)),
    "cavi": Citation("coordinate-ascent variational inference", ("blei2017variational",)),
    "meanfield": Citation(
        "mean-field variational inference with a deterministic objective", ("giordano2024black",)
    ),
    "lrvb": Citation(
        "mean-field variational inference with linear-response covariances",
        ("giordano2018covariances",),
    ),
    "structured": Citation(
        "Gaussian variational inference with a sparse precision and a deterministic objective",
        ("tan2018gaussian", "giordano2024black"),
    ),
    "nested": Citation(
        "nested quadrature over the population parameters",
        ("rue2009approximate", "pinheiro1995approximations"),
    ),
    "svi": Citation("stochastic variational inference", ("kucukelbir2017automatic",)),
    "forward_kl": Citation(
        "minimisation of the forward Kullback-Leibler divergence by adaptive importance sampling",
        ("cappe2008adaptive",),
    ),
    "svgd": Citation("Stein variational gradient descent", ("liu2016stein",)),
    "pathfinder": Citation("Pathfinder", ("zhang2022pathfinder",)),
    "nuts": Citation("the No-U-Turn sampler", ("hoffman2014nuts",)),
}
"""Key of a method -> its source."""


REFERENCES: dict[str, tuple[str, str, dict[str, str]]] = {
    "gelman2013bda": ("Gelman et al. 2013", "book", {
        "author": "Gelman, Andrew and Carlin, John B. and Stern, Hal S. and Dunson, David B. and "
                  "Vehtari, Aki and Rubin, Donald B.",
        "title": "Bayesian Data Analysis", "edition": "3", "publisher": "Chapman and Hall/CRC",
        "year": "2013", "doi": "10.1201/b16018",
    }),
    "tierney1986accurate": ("Tierney and Kadane 1986", "article", {
        "author": "Tierney, Luke and Kadane, Joseph B.",
        "title": "Accurate Approximations for Posterior Moments and Marginal Densities",
        "journal": "Journal of the American Statistical Association", "volume": "81",
        "number": "393", "pages": "82--86", "year": "1986",
        "doi": "10.1080/01621459.1986.10478240",
    }),
    "dempster1977maximum": ("Dempster, Laird and Rubin 1977", "article", {
        "author": "Dempster, A. P. and Laird, N. M. and Rubin, D. B.",
        "title": "Maximum Likelihood from Incomplete Data via the {EM} Algorithm",
        "journal": "Journal of the Royal Statistical Society: Series B", "volume": "39",
        "number": "1", "pages": "1--38", "year": "1977",
        "doi": "10.1111/j.2517-6161.1977.tb01600.x",
    }),
    "pinheiro1995approximations": ("Pinheiro and Bates 1995", "article", {
        "author": "Pinheiro, José C. and Bates, Douglas M.",
        "title": "Approximations to the Log-Likelihood Function in the Nonlinear Mixed-Effects "
                 "Model",
        "journal": "Journal of Computational and Graphical Statistics", "volume": "4",
        "number": "1", "pages": "12--35", "year": "1995",
        "doi": "10.1080/10618600.1995.10474663",
    }),
    "neal1998view": ("Neal and Hinton 1998", "incollection", {
        "author": "Neal, Radford M. and Hinton, Geoffrey E.",
        "title": "A View of the {EM} Algorithm that Justifies Incremental, Sparse, and other "
                 "Variants",
        "booktitle": "Learning in Graphical Models", "editor": "Jordan, Michael I.",
        "publisher": "Springer", "pages": "355--368", "year": "1998",
        "doi": "10.1007/978-94-011-5014-9_12",
    }),
    "blei2017variational": ("Blei, Kucukelbir and McAuliffe 2017", "article", {
        "author": "Blei, David M. and Kucukelbir, Alp and McAuliffe, Jon D.",
        "title": "Variational Inference: A Review for Statisticians",
        "journal": "Journal of the American Statistical Association", "volume": "112",
        "number": "518", "pages": "859--877", "year": "2017",
        "doi": "10.1080/01621459.2017.1285773",
    }),
    "giordano2024black": ("Giordano, Ingram and Broderick 2024", "article", {
        "author": "Giordano, Ryan and Ingram, Martin and Broderick, Tamara",
        "title": "Black Box Variational Inference with a Deterministic Objective: Faster, More "
                 "Accurate, and Even More Black Box",
        "journal": "Journal of Machine Learning Research", "volume": "25", "number": "18",
        "pages": "1--39", "year": "2024", "url": "https://jmlr.org/papers/v25/23-1015.html",
    }),
    "tan2018gaussian": ("Tan and Nott 2018", "article", {
        "author": "Tan, Linda S. L. and Nott, David J.",
        "title": "{Gaussian} variational approximation with sparse precision matrices",
        "journal": "Statistics and Computing",
        "volume": "28",
        "number": "2",
        "pages": "259--275",
        "year": "2018",
        "doi": "10.1007/s11222-017-9729-7",
    }),
    "giordano2018covariances": ("Giordano, Broderick and Jordan 2018", "article", {
        "author": "Giordano, Ryan and Broderick, Tamara and Jordan, Michael I.",
        "title": "Covariances, Robustness, and Variational {Bayes}",
        "journal": "Journal of Machine Learning Research", "volume": "19", "number": "51",
        "pages": "1--49", "year": "2018", "url": "https://jmlr.org/papers/v19/17-670.html",
    }),
    "rue2009approximate": ("Rue, Martino and Chopin 2009", "article", {
        "author": "Rue, Håvard and Martino, Sara and Chopin, Nicolas",
        "title": "Approximate {Bayesian} Inference for Latent {Gaussian} Models by Using "
                 "Integrated Nested {Laplace} Approximations",
        "journal": "Journal of the Royal Statistical Society: Series B", "volume": "71",
        "number": "2", "pages": "319--392", "year": "2009",
        "doi": "10.1111/j.1467-9868.2008.00700.x",
    }),
    "kucukelbir2017automatic": ("Kucukelbir et al. 2017", "article", {
        "author": "Kucukelbir, Alp and Tran, Dustin and Ranganath, Rajesh and Gelman, Andrew and "
                  "Blei, David M.",
        "title": "Automatic Differentiation Variational Inference",
        "journal": "Journal of Machine Learning Research", "volume": "18", "number": "14",
        "pages": "1--45", "year": "2017", "url": "https://jmlr.org/papers/v18/16-107.html",
    }),
    "cappe2008adaptive": ("Cappé et al. 2008", "article", {
        "author": "Cappé, Olivier and Douc, Randal and Guillin, Arnaud and Marin, Jean-Michel and "
                  "Robert, Christian P.",
        "title": "Adaptive Importance Sampling in General Mixture Classes",
        "journal": "Statistics and Computing", "volume": "18", "pages": "447--459",
        "year": "2008", "doi": "10.1007/s11222-008-9059-x",
    }),
    "liu2016stein": ("Liu and Wang 2016", "inproceedings", {
        "author": "Liu, Qiang and Wang, Dilin",
        "title": "Stein Variational Gradient Descent: A General Purpose {Bayesian} Inference "
                 "Algorithm",
        "booktitle": "Advances in Neural Information Processing Systems", "volume": "29",
        "year": "2016", "eprint": "1608.04471", "archiveprefix": "arXiv",
    }),
    "zhang2022pathfinder": ("Zhang et al. 2022", "article", {
        "author": "Zhang, Lu and Carpenter, Bob and Gelman, Andrew and Vehtari, Aki",
        "title": "Pathfinder: Parallel Quasi-{Newton} Variational Inference",
        "journal": "Journal of Machine Learning Research", "volume": "23", "number": "306",
        "pages": "1--49", "year": "2022", "eprint": "2108.03782", "archiveprefix": "arXiv",
    }),
    "hoffman2014nuts": ("Hoffman and Gelman 2014", "article", {
        "author": "Hoffman, Matthew D. and Gelman, Andrew",
        "title": "The No-{U}-Turn Sampler: Adaptively Setting Path Lengths in {Hamiltonian} "
                 "{Monte} {Carlo}",
        "journal": "Journal of Machine Learning Research", "volume": "15", "number": "47",
        "pages": "1593--1623", "year": "2014",
        "url": "https://jmlr.org/papers/v15/hoffman14a.html",
    }),
    "vehtari2024pareto": ("Vehtari et al. 2024", "article", {
        "author": "Vehtari, Aki and Simpson, Daniel and Gelman, Andrew and Yao, Yuling and Gabry, "
                  "Jonah",
        "title": "{Pareto} Smoothed Importance Sampling",
        "journal": "Journal of Machine Learning Research", "volume": "25", "number": "72",
        "pages": "1--58", "year": "2024", "eprint": "1507.02646", "archiveprefix": "arXiv",
    }),
    "vehtari2021rank": ("Vehtari et al. 2021", "article", {
        "author": "Vehtari, Aki and Gelman, Andrew and Simpson, Daniel and Carpenter, Bob and "
                  "Bürkner, Paul-Christian",
        "title": "Rank-Normalization, Folding, and Localization: An Improved $\\widehat{R}$ for "
                 "Assessing Convergence of {MCMC}",
        "journal": "Bayesian Analysis", "volume": "16", "number": "2", "pages": "667--718",
        "year": "2021", "doi": "10.1214/20-BA1221",
    }),
    "phan2019composable": ("Phan, Pradhan and Jankowiak 2019", "misc", {
        "author": "Phan, Du and Pradhan, Neeraj and Jankowiak, Martin",
        "title": "Composable Effects for Flexible and Accelerated Probabilistic Programming in "
                 "{NumPyro}",
        "year": "2019", "eprint": "1912.11554", "archiveprefix": "arXiv",
    }),
}  # fmt: skip
"""Key -> how it is cited in a text, the kind of its BibTeX entry, and the entry's fields."""


def bibtex(keys: Iterable[str]) -> str:
    """Return BibTeX entries, one for each key of :data:`REFERENCES`, in order and once."""
    entries = []
    for key in dict.fromkeys(keys):
        _, kind, fields = REFERENCES[key]
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
        entries.append("\n".join([f"@{kind}{{{key},", *lines, "}"]))
    return "\n\n".join(entries)
