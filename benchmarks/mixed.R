# Fit a mixed model to a CSV file and print seconds and estimates as one line of JSON.
#
#     Rscript mixed.R PACKAGE FILE FORMULA GROUP,GROUP [family=binomial] [nAGQ=0] [optimizer=bobyqa]

arguments <- commandArgs(TRUE)
package <- arguments[1]
pairs <- strsplit(arguments[-(1:4)], "=")
options <- setNames(lapply(pairs, `[`, 2), vapply(pairs, `[`, "", 1))
binomial_response <- identical(options$family, "binomial")

now <- function() proc.time()[["elapsed"]]
start <- now()
suppressPackageStartupMessages(library(package, character.only = TRUE))
loaded <- now()
data <- read.csv(arguments[2])
groups <- strsplit(arguments[4], ",")[[1]]
data[groups] <- lapply(data[groups], factor)
read <- now()

formula <- as.formula(arguments[3])
warned <- character()
fit <- withCallingHandlers(
  if (package == "glmmTMB") {
    glmmTMB(formula, data, family = if (binomial_response) binomial() else gaussian())
  } else if (binomial_response) {
    control <- if (is.null(options$optimizer)) glmerControl()
               else glmerControl(optimizer = options$optimizer)
    glmer(formula, data, family = binomial, nAGQ = as.integer(options$nAGQ), control = control)
  } else {
    lmer(formula, data, REML = FALSE)
  },
  warning = function(w) {
    warned <<- c(warned, conditionMessage(w))
    invokeRestart("muffleWarning")
  }
)
end <- now()

if (package == "glmmTMB") {
  fixed <- fixef(fit)$cond
  errors <- sqrt(diag(vcov(fit)$cond))
  spread <- vapply(VarCorr(fit)$cond, function(v) attr(v, "stddev")[[1]], 0)
} else {
  fixed <- fixef(fit)
  errors <- sqrt(diag(as.matrix(vcov(fit))))
  spread <- vapply(VarCorr(fit), function(v) attr(v, "stddev")[[1]], 0)
}
if (!binomial_response) spread <- c(spread, residual = sigma(fit))
names(spread) <- paste0("sd(", names(spread), ")")

quoted <- function(text) paste0('"', gsub('[\\\\"\n]', " ", text), '"')
number <- function(x) ifelse(is.finite(x), sprintf("%.10g", x), "null")
fields <- c(
  sprintf("%s: [%s, %s]", quoted(names(fixed)), number(fixed), number(errors)),
  sprintf("%s: [%s]", quoted(names(spread)), number(spread))
)
note <- sprintf("log-likelihood %.2f; library() %.2f s", as.numeric(logLik(fit)), loaded - start)
if (length(warned)) note <- paste0(note, "; warned: ", substr(warned[1], 1, 100))
cat(sprintf(
  '{"rows": [{"name": "", "read": %.3f, "fit": %.3f, "note": %s}], "estimates": {"": {%s}}}\n',
  read - loaded, end - read, quoted(note), paste(fields, collapse = ", ")
))
