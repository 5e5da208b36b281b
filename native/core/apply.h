// The body that a call and a mode want, and its run over a range of units.
#pragma once
#include "attention.h"
#include "passes.h"
#include "tiles.h"

namespace ACTSWAP_BUILD {

typedef void (*Unit)(const actswap_call &, const Layout &, float *, int64_t);

template <class F, class E, Mode M> static Unit in_layout(const Layout &l) {
    if constexpr (F::TILED)
        if (l.tiled) return tiled_unit<F, E, M>;
    return l.planar ? planar_unit<F, E, M> : rowed_unit<F, E, M>;
}

// ACON and the lines go with a gate; the rationals never.
template <class F, class E, bool GATED> static Unit unit_of(const Layout &l, Mode mode) {
    if constexpr (GATED) {
        if (mode == Mode::SUMS) return in_layout<F, E, Mode::SUMS>(l);
        if (mode == Mode::GRADIENT) return in_layout<F, E, Mode::GRADIENT>(l);
    }
    return mode == Mode::FORWARD ? in_layout<F, E, Mode::FORWARD>(l) : in_layout<F, E, Mode::BOTH>(l);
}

template <class F, class E> static Unit attended_unit_of(Mode mode) {
    if (mode == Mode::SUMS) return attend_unit<F, E, Mode::SUMS>;
    return mode == Mode::GRADIENT ? attend_unit<F, E, Mode::GRADIENT> : attend_unit<F, E, Mode::FORWARD>;
}

// What is common is compiled for its dtype and degrees; the rest shares one body that looks them up.
template <class E> static Unit common(const actswap_call &c, const Layout &l, Mode mode) {
    const bool degrees = c.degree_p == 5 && c.degree_q == 4;
    if (mode == Mode::MEAN) return l.attended ? score_unit<E> : mean_unit<E>;
    if (mode == Mode::ADD) return add_unit;
    if (c.op <= ACTSWAP_META_ACON) return unit_of<Acon, E, true>(l, mode);
    if (l.attended) return c.pieces == 2 ? attended_unit_of<Lines<2>, E>(mode) : nullptr;
    if (c.op == ACTSWAP_DY_RELU && c.pieces == 2) return unit_of<Lines<2>, E, true>(l, mode);
    if (c.op == ACTSWAP_PAU && degrees && c.form == ACTSWAP_FORM_A)
        return unit_of<Pade<ACTSWAP_FORM_A, 6, 4>, E, false>(l, mode);
    if (c.op == ACTSWAP_PAU && degrees && c.form == ACTSWAP_FORM_B)
        return unit_of<Pade<ACTSWAP_FORM_B, 6, 4>, E, false>(l, mode);
    if (c.op == ACTSWAP_OPAU && degrees && c.form == ACTSWAP_FORM_A)
        return c.basis >= ACTSWAP_HERMITE_PROB ? unit_of<Orthogonal<1, 6, 4, true>, E, false>(l, mode)
                                               : unit_of<Orthogonal<1, 6, 4, false>, E, false>(l, mode);
    return nullptr;
}

#if !defined(ACTSWAP_BF16_ONLY)
static Unit uncommon(const actswap_call &c, const Layout &l, Mode mode) {
    if (mode == Mode::MEAN) return l.attended ? score_unit<Any> : mean_unit<Any>;
    if (l.attended) return attended_unit_of<Lines<0>, Any>(mode);
    switch (c.op) {
        case ACTSWAP_ACON:
        case ACTSWAP_META_ACON: return unit_of<Acon, Any, true>(l, mode);
        case ACTSWAP_DY_RELU: return unit_of<Lines<0>, Any, true>(l, mode);
        case ACTSWAP_PAU: return unit_of<Pade<-1, 0, 0>, Any, false>(l, mode);
        default: return unit_of<Orthogonal<-1, 0, 0, false>, Any, false>(l, mode);
    }
}

static void apply(const actswap_call &c, const Layout &l, float *work, Mode mode, int64_t unit, int64_t end) {
    Unit run = c.dtype == ACTSWAP_F32    ? common<F32>(c, l, mode)
               : c.dtype == ACTSWAP_BF16 ? common<BF16>(c, l, mode)
                                         : nullptr;
    if (!run) run = uncommon(c, l, mode);
    for (; unit < end; ++unit) run(c, l, work, unit);
}
#endif

}  // namespace ACTSWAP_BUILD
