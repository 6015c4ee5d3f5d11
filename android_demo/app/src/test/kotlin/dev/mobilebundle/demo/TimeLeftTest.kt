package dev.mobilebundle.demo

import kotlin.random.Random
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** What is said of the time that an import takes: known before it is said, right, and not jumping. */
class TimeLeftTest {
    private val megabyte = 1_000_000L

    /** What is said every tenth of a second while [rate] bytes a second are copied, which depends on the time. */
    private fun said(total: Long, begin: Long = 0, kept: Long = 0, rate: (Double) -> Long): List<Int?> {
        val left = TimeLeft()
        var done = begin
        return generateSequence(0) { it + 1 }.map { it / 10.0 }.takeWhile { done < total }.map { seconds ->
            left.minutes(seconds, "copy", done, total, kept).also { done += rate(seconds) / 10 }
        }.toList()
    }

    private fun rises(said: List<Int?>) = said.filterNotNull().zipWithNext().count { (before, after) -> after > before }

    @Test
    fun aSteadyImportIsCountedDownMinuteByMinute() {
        val said = said(3000 * megabyte) { 10 * megabyte } // five minutes
        assertTrue("not known yet", said.take(30).all { it == null })
        assertEquals(listOf(5, 4, 3, 2, 1), said.filterNotNull().distinct())
        assertEquals(0, rises(said))
        assertEquals(5, said[40])
        assertEquals(3, said[1500])
        assertEquals(1, said.last())
    }

    @Test
    fun aRateThatVariesDoesNotMakeItJump() {
        for (seed in 1..20) {
            val random = Random(seed)
            val said = said(3000 * megabyte) { random.nextLong(0, 20 * megabyte) }
            val changes = said.filterNotNull().zipWithNext().count { (before, after) -> before != after }
            assertTrue("seed $seed: ${said.filterNotNull().distinct()}", changes <= 8 && rises(said) <= 2)
        }
    }

    @Test
    fun anImportThatBecomesSlowSaysSoSoon() {
        val said = said(1200 * megabyte) { if (it < 60) 10 * megabyte else megabyte }
        assertEquals("a minute before", 2, said[590])
        assertTrue("${said[800]}", said[800]!! >= 8) // 20 s later, of 9 min 40 s
    }

    @Test
    fun whatAnEarlierImportHasCopiedIsNoRate() {
        val left = TimeLeft()
        assertEquals(null, left.minutes(0.0, "copy", 0, 1000 * megabyte, 0))
        assertEquals(null, left.minutes(4.0, "copy", 900 * megabyte, 1000 * megabyte, 900 * megabyte))
        assertEquals(null, left.minutes(5.0, "copy", 901 * megabyte, 1000 * megabyte, 900 * megabyte))
        assertEquals("96 MB at 1 MB/s", 2, left.minutes(8.0, "copy", 904 * megabyte, 1000 * megabyte, 900 * megabyte))
    }

    @Test
    fun decodingIsMeasuredByItself() {
        val left = TimeLeft()
        left.minutes(0.0, "copy", 0, 100 * megabyte)
        assertEquals(1, left.minutes(10.0, "copy", 100 * megabyte, 100 * megabyte))
        assertEquals(null, left.minutes(11.0, "decode", 0, 100 * megabyte))
        assertEquals(null, left.minutes(12.0, "decode", megabyte / 2, 100 * megabyte))
        assertEquals(4, left.minutes(15.0, "decode", 2 * megabyte, 100 * megabyte))
    }

    @Test
    fun whatCannotBeKnownIsNotSaid() {
        val left = TimeLeft()
        left.minutes(0.0, "download", 0, -1)
        assertEquals("the server does not say how long it is", null, left.minutes(10.0, "download", megabyte, -1))
        left.minutes(20.0, "copy", 0, 1L shl 44)
        assertEquals("years", null, left.minutes(30.0, "copy", 1, 1L shl 44))
        assertEquals("nothing came", null, TimeLeft().run { minutes(0.0, "copy", 0, 9); minutes(9.0, "copy", 0, 9) })
    }
}
