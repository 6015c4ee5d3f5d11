package dev.mobilebundle.demo.ui

import android.content.Context
import android.graphics.Canvas
import android.graphics.Paint
import android.graphics.Typeface
import android.text.Layout
import android.text.SpannableStringBuilder
import android.text.Spanned
import android.text.style.AlignmentSpan
import android.text.style.BackgroundColorSpan
import android.text.style.LeadingMarginSpan
import android.text.style.LineBackgroundSpan
import android.text.style.QuoteSpan
import android.text.style.RelativeSizeSpan
import android.text.style.StyleSpan
import android.text.style.TypefaceSpan
import dev.mobilebundle.demo.R
import org.commonmark.node.BlockQuote
import org.commonmark.node.BulletList
import org.commonmark.node.Code
import org.commonmark.node.Emphasis
import org.commonmark.node.FencedCodeBlock
import org.commonmark.node.HardLineBreak
import org.commonmark.node.Heading
import org.commonmark.node.HtmlBlock
import org.commonmark.node.HtmlInline
import org.commonmark.node.IndentedCodeBlock
import org.commonmark.node.Link
import org.commonmark.node.ListItem
import org.commonmark.node.Node
import org.commonmark.node.OrderedList
import org.commonmark.node.Paragraph
import org.commonmark.node.SoftLineBreak
import org.commonmark.node.StrongEmphasis
import org.commonmark.node.Text
import org.commonmark.node.ThematicBreak
import org.commonmark.parser.Parser

/**
 * An answer's markdown (CommonMark) as styled text. Links are words, not buttons: a model of this size makes them up. HTML
 * is shown as it stands. Lines end where the model ends them.
 */
class Markdown(context: Context) {
    private val parser = Parser.builder().build()
    private val codeGround = context.getColor(R.color.code)
    private val quoteStripe = context.getColor(R.color.primary)
    private val step = (STEP_DP * context.resources.displayMetrics.density).toInt()

    fun render(markdown: String): CharSequence = Rendering().run {
        walk(parser.parse(markdown))
        text
    }

    /** Walks without calling itself: what an answer nests is not for the stack to bear. */
    private inner class Rendering {
        val text = SpannableStringBuilder()
        private val begins = ArrayDeque<Int>()

        /** Lists and quotes around the current node; deeper than [DEEPEST] nothing is indented further. */
        private var depth = 0

        fun walk(root: Node) {
            var node = root.firstChild ?: return
            while (true) {
                enter(node)
                node.firstChild?.let { node = it } ?: run {
                    leave(node)
                    while (node.next == null) {
                        node = node.parent
                        if (node === root) return
                        leave(node)
                    }
                    node = node.next
                }
            }
        }

        private fun enter(node: Node) {
            when (node) {
                is Paragraph, is Heading, is FencedCodeBlock, is IndentedCodeBlock, is HtmlBlock, is ThematicBreak -> beginBlock(node)
                is BulletList, is OrderedList, is BlockQuote -> depth++
                else -> Unit
            }
            begins.addLast(text.length)
            when (node) {
                is Text -> text.append(node.literal)
                is Code -> text.append(node.literal)
                is HtmlInline -> text.append(node.literal)
                is HtmlBlock -> text.append(node.literal)
                is FencedCodeBlock -> code(node.literal)
                is IndentedCodeBlock -> code(node.literal)
                is ThematicBreak -> text.append(RULE)
                is SoftLineBreak, is HardLineBreak -> text.append('\n')
                is ListItem -> item(node)
                else -> Unit
            }
        }

        private fun leave(node: Node) {
            val begin = begins.removeLast()
            when (node) {
                is StrongEmphasis -> span(begin, StyleSpan(Typeface.BOLD))
                is Emphasis -> span(begin, StyleSpan(Typeface.ITALIC))
                is Code -> {
                    span(begin, TypefaceSpan("monospace"))
                    span(begin, BackgroundColorSpan(codeGround))
                }
                is Heading -> {
                    span(begin, StyleSpan(Typeface.BOLD))
                    span(begin, RelativeSizeSpan(if (node.level <= 2) LARGE else SMALLER))
                }
                is FencedCodeBlock, is IndentedCodeBlock -> {
                    span(begin, TypefaceSpan("monospace"))
                    span(begin, RelativeSizeSpan(CODE))
                    span(begin, Ground(codeGround))
                    // To its own left: the text around it may be to the right of its bubble.
                    span(begin, AlignmentSpan.Standard(Layout.Alignment.ALIGN_NORMAL))
                }
                is Link -> if (node.destination.isNotEmpty() && text.substring(begin) != node.destination) text.append(" (${node.destination})")
                is ListItem -> if (depth <= DEEPEST) span(begin, LeadingMarginSpan.Standard(if (depth == 1) 0 else step, step))
                is BlockQuote -> {
                    if (depth <= DEEPEST) span(begin, QuoteSpan(quoteStripe))
                    depth--
                }
                is BulletList, is OrderedList -> depth--
                else -> Unit
            }
        }

        /** A line of its own, and an empty one before it, but between the lines of a list and after a list's mark. */
        private fun beginBlock(node: Node) {
            if (text.isEmpty()) return
            val first = node.parent is ListItem && node.previous == null
            if (first) return
            if (text.last() != '\n') text.append('\n')
            if (node.parent !is ListItem || node.previous !is Paragraph) text.append('\n')
        }

        private fun item(node: ListItem) {
            val list = node.parent
            val number = generateSequence(node.previous) { it.previous }.count()
            if (text.isNotEmpty()) {
                if (text.last() != '\n') text.append('\n')
                if (node.previous == null && list.parent !is ListItem) text.append('\n')
            }
            begins.removeLast()
            begins.addLast(text.length)
            text.append(if (list is OrderedList) "${(list.markerStartNumber ?: 1) + number}. " else "• ")
        }

        /** Programs read from left to right, also where a line's first word is Arabic, and where it has none ("}"). */
        private fun code(literal: String) {
            val lines = literal.trimEnd('\n').split('\n')
            text.append(lines.joinToString("\n") { if (it.isBlank() || beginsLeftToRight(it)) it else LEFT_TO_RIGHT + it })
        }

        private fun beginsLeftToRight(line: String): Boolean {
            for (char in line) {
                when (Character.getDirectionality(char)) {
                    Character.DIRECTIONALITY_LEFT_TO_RIGHT -> return true
                    Character.DIRECTIONALITY_RIGHT_TO_LEFT, Character.DIRECTIONALITY_RIGHT_TO_LEFT_ARABIC -> return false
                }
            }
            return false
        }

        private fun span(from: Int, what: Any) {
            var begin = from
            while (begin < text.length && text[begin] == '\n') begin++ // between it and what is before
            if (begin < text.length) text.setSpan(what, begin, text.length, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE)
        }
    }

    /** A ground as wide as the text, behind every line of a program. */
    private class Ground(private val color: Int) : LineBackgroundSpan {
        override fun drawBackground(
            canvas: Canvas, paint: Paint, left: Int, right: Int, top: Int, baseline: Int, bottom: Int,
            text: CharSequence, start: Int, end: Int, line: Int,
        ) {
            val before = paint.color
            paint.color = color
            canvas.drawRect(left.toFloat(), top.toFloat(), right.toFloat(), bottom.toFloat(), paint)
            paint.color = before
        }
    }

    private companion object {
        const val STEP_DP = 18
        const val DEEPEST = 6
        const val LARGE = 1.2f
        const val SMALLER = 1.08f
        const val CODE = 0.9f
        const val RULE = "———"
        const val LEFT_TO_RIGHT = "\u200E"
    }
}
