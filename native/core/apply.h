// Chooses the body for a call and a mode, and runs it over a range of units.
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

// ACON and the lines may have a gate; the rationals never have one.
template <class F, class E, bool GATED> static Unit unit_of(const Layout &l, Mode mode) {
    if constexpr (GATED) {
        if (mode == Mode::SUMS) return in_layout<F, E, Mode::SUMS>(l);
        if (mode == Mode::GRADIENT) return in_layout<F, E, Mode::GRADIENT>(l);
    }
    return mode == Mode::FORWARD ? in_layout<F, E, Mode::FORWARD>(l) : in_layout<F, E, Mode::BOTH>(l);
}

static Ends ends_of(const actswap_call &c, const Layout &l) {
    const float *tails = c.param[2];
    bool below = true, above = true, some = false;  // all below, all above, some above are flat
    for (int64_t ch = 0; ch < (c.shared >> 2 & 1 ? 1 : l.C); ++ch, tails += 5)
        below = below && tails[3] == 0, above = above && tails[4] == 0, some = some || tails[4] == 0;
    return !below ? SLOPED : above ? FLAT : some ? SLOPED : FLAT_BELOW;
}

template <int FORM, class E> static Unit pade_of(const actswap_call &c, const Layout &l, Mode mode) {
    if (mode != Mode::FORWARD) return in_layout<Pade<FORM, 6, 4>, E, Mode::BOTH>(l);
    switch (ends_of(c, l)) {
        case FLAT: return in_layout<Pade<FORM, 6, 4, FLAT>, E, Mode::FORWARD>(l);
        case FLAT_BELOW: return in_layout<Pade<FORM, 6, 4, FLAT_BELOW>, E, Mode::FORWARD>(l);
        default: return in_layout<Pade<FORM, 6, 4>, E, Mode::FORWARD>(l);
    }
}

template <class F, class E> static Unit attended_unit_of(Mode mode) {
    if (mode == Mode::SUMS) return attend_unit<F, E, Mode::SUMS>;
    return mode == Mode::GRADIENT ? attend_unit<F, E, Mode::GRADIENT> : attend_unit<F, E, Mode::FORWARD>;
}

// Common cases are compiled for their dtype and degrees. The others share one body that looks these up.
template <class E> static Unit common(const actswap_call &c, const Layout &l, Mode mode) {
    const bool degrees = c.degree_p == 5 && c.degree_q == 4;
    if (mode == Mode::MEAN) return l.attended ? score_unit<E> : mean_unit<E>;
    if (mode == Mode::ADD) return add_unit;
    if (c.op <= ACTSWAP_META_ACON) return unit_of<Acon, E, true>(l, mode);
    if (l.attended) return c.pieces == 2 ? attended_unit_of<Lines<2>, E>(mode) : nullptr;
    if (c.op == ACTSWAP_DY_RELU && c.pieces == 2) return unit_of<Lines<2>, E, true>(l, mode);
    if (c.op == ACTSWAP_PAU && degrees && c.form == ACTSWAP_FORM_A) return pade_of<ACTSWAP_FORM_A, E>(c, l, mode);
    if (c.op == ACTSWAP_PAU && degrees && c.form == ACTSWAP_FORM_B) return pade_of<ACTSWAP_FORM_B, E>(c, l, mode);
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

static Unit unit_for(const actswap_call &c, const Layout &l, Mode mode) {
    Unit run = c.dtype == ACTSWAP_F32    ? common<F32>(c, l, mode)
               : c.dtype == ACTSWAP_BF16 ? common<BF16>(c, l, mode)
                                         : nullptr;
    return run ? run : uncommon(c, l, mode);
}

static void apply(const actswap_call &c, const Layout &l, float *work, Mode mode, int64_t unit, int64_t end) {
    const Unit run = unit_for(c, l, mode);
    for (; unit < end; ++unit) run(c, l, work, unit);
}
#endif

}  // namespace ACTSWAP_BUILD
