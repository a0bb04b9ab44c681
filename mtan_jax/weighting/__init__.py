"""Weighting methods as optax transformations over task gradients.

Where a new method goes: one that reads losses in `balancers/`, one that combines gradients in `gradient_methods/`, one
that evaluates losses at other parameters in `wrappers/`. Then add it to `METHODS` in `registry.py`.
"""

from mtan_jax.weighting.balancers.cosmos import cosmos
from mtan_jax.weighting.balancers.dtp import dtp
from mtan_jax.weighting.balancers.dwa import dwa
from mtan_jax.weighting.balancers.equal import equal
from mtan_jax.weighting.balancers.geometric import geometric
from mtan_jax.weighting.balancers.go4align import go4align
from mtan_jax.weighting.balancers.hypervolume import hypervolume
from mtan_jax.weighting.balancers.imtl_l import imtl_l
from mtan_jax.weighting.balancers.ldc_mtl import ldc_mtl
from mtan_jax.weighting.balancers.pbi import pbi
from mtan_jax.weighting.balancers.relobralo import relobralo
from mtan_jax.weighting.balancers.rlw import rlw
from mtan_jax.weighting.balancers.scale_invariant import scale_invariant
from mtan_jax.weighting.balancers.schedule import schedule
from mtan_jax.weighting.balancers.softadapt import softadapt
from mtan_jax.weighting.balancers.static import static
from mtan_jax.weighting.balancers.stch import stch
from mtan_jax.weighting.balancers.uncertainty import uncertainty
from mtan_jax.weighting.core import SumTasksState, TaskGradients, balancer, sum_tasks, task_weights
from mtan_jax.weighting.declaration import Declaration, Kind, Method, Needs, declare
from mtan_jax.weighting.differentiate import from_jacobian, task_gradients
from mtan_jax.weighting.gradient_methods.aligned_mtl import aligned_mtl
from mtan_jax.weighting.gradient_methods.cagrad import cagrad
from mtan_jax.weighting.gradient_methods.conflict_free import conflict_free
from mtan_jax.weighting.gradient_methods.cr_mogm import cr_mogm
from mtan_jax.weighting.gradient_methods.db_mtl import db_mtl
from mtan_jax.weighting.gradient_methods.dualproj import dualproj
from mtan_jax.weighting.gradient_methods.epo import epo
from mtan_jax.weighting.gradient_methods.excess_mtl import excess_mtl
from mtan_jax.weighting.gradient_methods.fairgrad import fairgrad
from mtan_jax.weighting.gradient_methods.forum import forum
from mtan_jax.weighting.gradient_methods.graddrop import graddrop
from mtan_jax.weighting.gradient_methods.gradnorm import gradnorm
from mtan_jax.weighting.gradient_methods.gradvac import gradvac
from mtan_jax.weighting.gradient_methods.imtl_g import imtl_g
from mtan_jax.weighting.gradient_methods.krum import krum
from mtan_jax.weighting.gradient_methods.mgda import mgda
from mtan_jax.weighting.gradient_methods.moco import moco
from mtan_jax.weighting.gradient_methods.nash_mtl import nash_mtl
from mtan_jax.weighting.gradient_methods.parameter_groups import parameter_groups
from mtan_jax.weighting.gradient_methods.pcgrad import pcgrad
from mtan_jax.weighting.gradient_methods.sdmgrad import sdmgrad
from mtan_jax.weighting.gradient_methods.trimmed_mean import trimmed_mean
from mtan_jax.weighting.gradient_methods.upgrad import upgrad
from mtan_jax.weighting.gradients import Combined, combined, weighted
from mtan_jax.weighting.registry import (
    BALANCERS,
    GRADIENT_METHODS,
    METHODS,
    WRAPPERS,
    Spec,
    build_weighting,
    needs_of,
)
from mtan_jax.weighting.stack import Stack
from mtan_jax.weighting.wrappers.around import around
from mtan_jax.weighting.wrappers.auto_lambda import auto_lambda
from mtan_jax.weighting.wrappers.famo import famo
from mtan_jax.weighting.wrappers.modo import modo
from mtan_jax.weighting.wrappers.moml import moml
from mtan_jax.weighting.wrappers.telemetry import Measurements, has_telemetry, measure, telemetry

__all__ = [
    "BALANCERS",
    "GRADIENT_METHODS",
    "METHODS",
    "WRAPPERS",
    "Combined",
    "Declaration",
    "Kind",
    "Measurements",
    "Method",
    "Needs",
    "Spec",
    "Stack",
    "SumTasksState",
    "TaskGradients",
    "aligned_mtl",
    "around",
    "auto_lambda",
    "balancer",
    "build_weighting",
    "cagrad",
    "combined",
    "conflict_free",
    "cosmos",
    "cr_mogm",
    "db_mtl",
    "declare",
    "dtp",
    "dualproj",
    "dwa",
    "epo",
    "equal",
    "excess_mtl",
    "fairgrad",
    "famo",
    "forum",
    "from_jacobian",
    "geometric",
    "go4align",
    "graddrop",
    "gradnorm",
    "gradvac",
    "has_telemetry",
    "hypervolume",
    "imtl_g",
    "imtl_l",
    "krum",
    "ldc_mtl",
    "measure",
    "mgda",
    "moco",
    "modo",
    "moml",
    "nash_mtl",
    "needs_of",
    "parameter_groups",
    "pbi",
    "pcgrad",
    "relobralo",
    "rlw",
    "scale_invariant",
    "schedule",
    "sdmgrad",
    "softadapt",
    "static",
    "stch",
    "sum_tasks",
    "task_gradients",
    "task_weights",
    "telemetry",
    "trimmed_mean",
    "uncertainty",
    "upgrad",
    "weighted",
]
