package dev.mobilebundle.demo

import android.graphics.Typeface
import android.text.Spanned
import android.text.style.LeadingMarginSpan
import android.text.style.QuoteSpan
import android.text.style.StyleSpan
import android.text.style.TypefaceSpan
import android.view.View
import android.widget.ListView
import android.widget.TextView
import dev.mobilebundle.demo.ui.Markdown
import dev.mobilebundle.lm.Role
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.RuntimeEnvironment

/** Answers as people see them. */
class MarkdownTest : AppTest() {
    private fun render(markdown: String) = Markdown(app).render(markdown) as Spanned

    private fun plain(markdown: String) = render(markdown).toString()

    /** The texts that a kind of span covers. */
    private inline fun <reified T : Any> Spanned.covered(which: (T) -> Boolean = { true }) =
        getSpans(0, length, T::class.java).filter(which).map { substring(getSpanStart(it), getSpanEnd(it)) }

    @Test
    fun words() {
        val text = render("Water is **very** *wet*, says `H2O` of [it](https://w.example).")
        assertEquals("Water is very wet, says H2O of it (https://w.example).", text.toString())
        assertEquals(listOf("very"), text.covered<StyleSpan> { it.style == Typeface.BOLD })
        assertEquals(listOf("wet"), text.covered<StyleSpan> { it.style == Typeface.ITALIC })
        assertEquals(listOf("H2O"), text.covered<TypefaceSpan>())
    }

    @Test
    fun blocks() {
        assertEquals("Title\n\nOne\ntwo\n\nThree", plain("# Title\nOne\ntwo\n\nThree"))
        assertEquals("• a\n• b\n• c", plain("- a\n- b\n* c").replace("\n\n", "\n"))
        assertEquals("Steps:\n\n3. a\n4. b\n\nDone", plain("Steps:\n\n3. a\n4. b\n\nDone"))
        assertEquals("• a\n• b", plain("- a\n  - b"))
        assertEquals("a\n\n———\n\nb", plain("a\n\n---\n\nb"))
        assertEquals(listOf("said"), render("> said").covered<QuoteSpan>())
        val nested = render("- a\n  - b")
        assertEquals(setOf("• a\n• b", "• b"), nested.covered<LeadingMarginSpan.Standard>().toSet())
    }

    @Test
    fun programs() {
        val text = render("So:\n```python\nfor i in x:\n    print(i)\n```\nDone")
        assertEquals("So:\n\nfor i in x:\n    print(i)\n\nDone", text.toString())
        assertEquals(listOf("for i in x:\n    print(i)"), text.covered<TypefaceSpan>())
        assertEquals("while it is written, the end is missing", "for i", plain("```python\nfor i"))
        assertEquals("from left to right", "\u200Eسلام = 1\nx = 2\n\n\u200E}", plain("```\nسلام = 1\nx = 2\n\n}\n```"))
    }

    @Test
    fun programsAreAtTheLeftFromRightToLeftToo() {
        RuntimeEnvironment.setQualifiers("+ar-ldrtl")
        val bundle = imported(Inputs.chatModel)
        off {
            val turns = listOf(Turn(Role.USER, "?"), Turn(Role.ASSISTANT, "الماء ضروري للحياة في كل مكان.\n\nنعم.\n\n```\nif a {\n  }\n```", Ending.COMPLETE))
            app.conversations.save(Conversation(bundle.id, turns = turns))
        }
        chat(bundle).use { controller ->
            layOut()
            val text = controller.get().findViewById<ListView>(R.id.messages).getChildAt(1).findViewById<TextView>(R.id.text)
            val lines = text.layout
            val short = lines.getLineForOffset(text.text.indexOf("نعم"))
            assertTrue("words are at the right", lines.getLineLeft(short) > 0f)
            for (line in lines.lineCount - 2 until lines.lineCount) {
                assertEquals("a line of the program is at the left", 0f, lines.getLineLeft(line), 0.5f)
                assertEquals(1, lines.getParagraphDirection(line))
            }
        }
    }

    @Test
    fun whatIsNoMarkdownStaysAsItIs() {
        for (text in listOf("2 * 3 * 4 = 24", "a_b_c", "<b>no</b>", "<think>\nhm", "| a | b |", "50 % & more", "مرحبا بالعالم", "")) {
            assertEquals(text, plain(text))
        }
    }

    @Test
    fun whateverAModelNests() {
        for (piece in listOf("> ", "- ", "*a **b ", "[", "![", "`", "<a ", "1. ", "# ", "_", "~~~\n")) {
            val text = piece.repeat(20_000 / piece.length)
            assertTrue(piece, plain(text).length <= text.length + 20_000)
        }
    }

    @Test
    fun anAnswerIsRenderedAndAQuestionIsNot() {
        val bundle = imported(Inputs.chatModel)
        off {
            val turns = listOf(Turn(Role.USER, "**Why?**"), Turn(Role.ASSISTANT, "**So.**", Ending.COMPLETE))
            app.conversations.save(Conversation(bundle.id, turns = turns))
        }
        chat(bundle).use { controller ->
            layOut()
            val list = controller.get().findViewById<ListView>(R.id.messages)
            fun row(i: Int) = list.getChildAt(i).findViewById<TextView>(R.id.text)
            assertEquals("**Why?**", row(0).text.toString())
            assertEquals("So.", row(1).text.toString())
            assertEquals("Model: So.", row(1).contentDescription.toString())
            list.getChildAt(1).findViewById<View>(R.id.copy).performClick()
            val clip = (app.getSystemService(android.content.Context.CLIPBOARD_SERVICE) as android.content.ClipboardManager).primaryClip
            assertEquals("what is copied is what the model wrote", "**So.**", clip!!.getItemAt(0).text)
        }
    }
}
