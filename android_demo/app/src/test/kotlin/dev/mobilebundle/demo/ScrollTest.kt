package dev.mobilebundle.demo

import android.view.View
import android.widget.ListView
import dev.mobilebundle.demo.ui.ChatActivity
import dev.mobilebundle.lm.Role
import dev.mobilebundle.lm.StoredBundle
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertSame
import org.junit.Assert.assertTrue
import org.junit.Test
import org.robolectric.RuntimeEnvironment

/** Where a conversation is opened: at its end, also where its last answer alone is taller than the screen. */
class ScrollTest : AppTest() {
    private val tall = "# Drying maize\n\n" + (1..60).joinToString("\n\n") { "$it. Turn the cobs over, **twice** a day, number $it." } +
        "\n\n```\nprint(1)\n```\n"

    private fun long(bundle: StoredBundle, pairs: Int) = off {
        val turns = (1..pairs).flatMap { listOf(Turn(Role.USER, "Question $it"), Turn(Role.ASSISTANT, tall, Ending.LENGTH)) }
        app.conversations.save(Conversation(bundle.id, turns = turns))
    }

    private fun atEnd(screen: ChatActivity) {
        val list = screen.findViewById<ListView>(R.id.messages)
        val last = list.getChildAt(list.childCount - 1)
        assertEquals(list.count - 1, list.lastVisiblePosition)
        assertEquals("the end of the last row is at the list's", list.height - list.paddingBottom, last.bottom)
        assertTrue("which is taller than the list", last.height > list.height)
        assertFalse(screen.isShown(R.id.to_end))
    }

    @Test
    fun anAnswerThatIsTallerThanTheScreenOpensAtItsEnd() {
        val bundle = imported(Inputs.chatModel)
        for (pairs in listOf(1, 2, 5)) {
            app.chat.close()
            long(bundle, pairs)
            chat(bundle).use { controller ->
                layOut()
                atEnd(controller.get())
                controller.recreate()
                layOut()
                atEnd(controller.get())
            }
        }
    }

    @Test
    fun alsoWithLargeLettersAndSideways() {
        val bundle = imported(Inputs.chatModel)
        long(bundle, 2)
        for (qualifiers in listOf("w640dp-h360dp-land", "w320dp-h480dp-port")) {
            RuntimeEnvironment.setFontScale(if ("320" in qualifiers) 2f else 1f)
            RuntimeEnvironment.setQualifiers("+$qualifiers")
            chat(bundle).use { controller ->
                layOut()
                atEnd(controller.get())
            }
        }
    }

    @Test
    fun aRowThatIsUsedAgainIsWhereItsMessageBelongs() {
        val bundle = imported(Inputs.chatModel)
        val turns = listOf(Turn(Role.USER, "A question ".repeat(9)), Turn(Role.ASSISTANT, "An answer ".repeat(9), Ending.COMPLETE))
        off { app.conversations.save(Conversation(bundle.id, turns = turns)) }
        chat(bundle).use { controller ->
            layOut()
            val list = controller.get().findViewById<ListView>(R.id.messages)
            fun place(row: View) = row.findViewById<View>(R.id.text).let { it.left to row.width - it.right }
            val places = (0..1).map { place(list.getChildAt(it)) }
            assertTrue("$places", places[0].first > places[1].first && places[0].second == 0)
            for (i in 0..1) {
                val row = list.getChildAt(i)
                assertSame(row, list.adapter.getView(1 - i, row, list))
                val width = View.MeasureSpec.makeMeasureSpec(row.width, View.MeasureSpec.EXACTLY)
                row.measure(width, View.MeasureSpec.makeMeasureSpec(0, View.MeasureSpec.UNSPECIFIED))
                row.layout(row.left, row.top, row.right, row.top + row.measuredHeight)
                assertEquals("the row of message $i with the other one", places[1 - i], place(row))
            }
        }
    }

    @Test
    fun andTheButtonBringsItBack() {
        val bundle = imported(Inputs.chatModel)
        long(bundle, 2)
        chat(bundle).use { controller ->
            layOut()
            val list = controller.get().findViewById<ListView>(R.id.messages)
            swipeDown(list)
            assertTrue(controller.get().isShown(R.id.to_end))
            controller.get().press(R.id.to_end)
            layOut()
            atEnd(controller.get())
        }
    }
}
