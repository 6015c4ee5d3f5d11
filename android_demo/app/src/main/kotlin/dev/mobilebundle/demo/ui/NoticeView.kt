package dev.mobilebundle.demo.ui

import android.content.Context
import android.util.AttributeSet
import android.widget.ScrollView
import android.widget.TextView
import dev.mobilebundle.demo.R

/**
 * A text that grows up to so many lines, and is scrolled from there on: nothing of it is cut, and the conversation keeps its
 * room. Half a line more is shown where there is more.
 */
class NoticeView(context: Context, attributes: AttributeSet?) : ScrollView(context, attributes) {
    override fun onMeasure(widthSpec: Int, heightSpec: Int) {
        super.onMeasure(widthSpec, heightSpec)
        val text = getChildAt(0) as? TextView ?: return
        val most = text.lineHeight * resources.getInteger(R.integer.notice_lines) + text.paddingTop + text.lineHeight / 2
        if (measuredHeight > most) setMeasuredDimension(measuredWidth, most)
    }
}
