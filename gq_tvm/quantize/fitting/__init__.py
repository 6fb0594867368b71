"""The best codebook of one trained weight, given what its layer is fed."""

from gq_tvm.quantize.fitting.fit import fit as fit
from gq_tvm.quantize.fitting.form import Fit as Fit
from gq_tvm.quantize.fitting.form import Form as Form
