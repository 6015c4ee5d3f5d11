package dev.mobilebundle.demo.ui

import android.content.Context
import android.util.AttributeSet
import android.view.View
import android.view.ViewGroup

/** Puts its children side by side, and into further lines where the width or large letters leave no room. */
class FlowLayout @JvmOverloads constructor(context: Context, attributes: AttributeSet? = null) :
    ViewGroup(context, attributes) {
    private val gap = (GAP_DP * resources.displayMetrics.density).toInt()

    override fun onMeasure(widthMeasureSpec: Int, heightMeasureSpec: Int) {
        val width = MeasureSpec.getSize(widthMeasureSpec)
        val inner = MeasureSpec.makeMeasureSpec(width, MeasureSpec.AT_MOST)
        val free = MeasureSpec.makeMeasureSpec(0, MeasureSpec.UNSPECIFIED)
        for (child in shown()) child.measure(inner, free)
        var used = 0
        val height = arrange(width) { child, x, _ -> used = maxOf(used, x + child.measuredWidth) }
        val whole = MeasureSpec.getMode(widthMeasureSpec) == MeasureSpec.EXACTLY
        setMeasuredDimension(if (whole) width else minOf(used, width), height)
    }

    override fun onLayout(changed: Boolean, left: Int, top: Int, right: Int, bottom: Int) {
        val width = right - left
        arrange(width) { child, x, y ->
            val begin = if (layoutDirection == LAYOUT_DIRECTION_RTL) width - x - child.measuredWidth else x
            child.layout(begin, y, begin + child.measuredWidth, y + child.measuredHeight)
        }
    }

    /** Hands every child its place; returns the height of all lines. */
    private fun arrange(width: Int, place: (View, Int, Int) -> Unit): Int {
        var x = 0
        var y = 0
        var lineHeight = 0
        for (child in shown()) {
            if (x > 0 && x + child.measuredWidth > width) {
                x = 0
                y += lineHeight + gap
                lineHeight = 0
            }
            place(child, x, y)
            x += child.measuredWidth + gap
            lineHeight = maxOf(lineHeight, child.measuredHeight)
        }
        return y + lineHeight
    }

    private fun shown() = (0 until childCount).map { getChildAt(it) }.filter { it.visibility != View.GONE }

    private companion object {
        const val GAP_DP = 8
    }
}
